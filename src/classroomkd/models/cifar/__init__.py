"""The CIFAR networks of the CRD benchmark (Tian et al., ICLR 2020, arXiv:1910.10699).

Parameters are named as in checkpoints of that benchmark (RepDistiller, mdistiller), with these
differences: the classifier is ``classifier`` in every family (theirs: ``fc``, ``linear``,
``classifier.0``), the shortcut of ResNet18, 34 and 50 is ``downsample`` (theirs: ``shortcut``),
and ``normalize.mean`` and ``normalize.std`` are ours alone.
"""

from classroomkd.models.cifar.mobilenetv2 import MobileNetV2
from classroomkd.models.cifar.resnet import ResNet, thin_resnet
from classroomkd.models.cifar.shufflenet import ShuffleNetV1, ShuffleNetV2
from classroomkd.models.cifar.vgg import VGG
from classroomkd.models.cifar.wrn import WideResNet

__all__ = [
    "VGG",
    "MobileNetV2",
    "ResNet",
    "ShuffleNetV1",
    "ShuffleNetV2",
    "WideResNet",
    "thin_resnet",
]
