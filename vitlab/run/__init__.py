"""One run: its LightningModule, its folder, its checkpoint files."""
