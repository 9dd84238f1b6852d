"""The default data: ImageNet, VOC 2012, ADE20K and Cityscapes in miniature, drawn from a seed.

The folders have the original layouts, so the loaders of the real sets read them unchanged. Twelve
classes of objects, which differ in silhouette and texture together and never in color, appear in
ImageNet, VOC and ADE20K alike; what is learned from one set can be probed on the others.
"""

from vitlab.data.synthetic.ade20k import ADE_IDS, ADE_STUFF
from vitlab.data.synthetic.collection import MARKER, synthesize
from vitlab.data.synthetic.imagenet import WNIDS
from vitlab.data.synthetic.voc import VOC_IDS
from vitlab.option_types import Amounts
