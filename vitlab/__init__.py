"""What makes a vision transformer's patch features good for dense prediction?"""

__version__ = "0.1.0"
