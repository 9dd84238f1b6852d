"""The embedded default data: ImageNet, VOC 2012, ADE20K and Cityscapes in miniature, from a seed.

The folders have the original layouts, so the loaders of the real sets read them unchanged. Ten
classes of objects, told apart by silhouette and texture and never by color, appear in ImageNet,
VOC and ADE20K alike; what is learned from one set can be probed on the others.
"""

from vitlab.data.synthetic.ade20k import ADE_IDS, ADE_STUFF
from vitlab.data.synthetic.collection import MARKER, VERSION, synthesize
from vitlab.data.synthetic.imagenet import ILSVRC_IDS, WNIDS
from vitlab.data.synthetic.task import Amounts
from vitlab.data.synthetic.voc import VOC_IDS

__all__ = [
    "ADE_IDS",
    "ADE_STUFF",
    "ILSVRC_IDS",
    "MARKER",
    "VERSION",
    "VOC_IDS",
    "WNIDS",
    "Amounts",
    "synthesize",
]
