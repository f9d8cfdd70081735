"""Small parts that the CIFAR families share."""

from torch import nn


def conv(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """Build a convolution without bias whose padding keeps the size at stride 1.

    Example:
        >>> conv(16, 32, kernel_size=3, stride=2)
        Conv2d(16, 32, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), bias=False)
    """
    padding = kernel_size // 2
    return nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False
    )


def init_convs(network: nn.Module) -> None:
    """Draw the convolutions' weights from He's normal distribution over the fan-out.

    From He et al., "Delving deep into rectifiers" (ICCV 2015). Biases become 0.

    Example:
        >>> layer = nn.Conv2d(3, 4, 3)
        >>> init_convs(layer)
        >>> layer.bias.tolist()
        [0.0, 0.0, 0.0, 0.0]
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
