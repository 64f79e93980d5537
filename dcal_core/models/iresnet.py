"""IResNet, the residual network of face recognition, in AdaFace's layout and names, so that its weights fit.

The improved residual block is ArcFace's (Deng et al., CVPR 2019, arXiv 1801.07698, section 3.2.2); the layout is the
published one of AdaFace (Kim et al., CVPR 2022, arXiv 2204.00964). B images of side S, stages of width, 2 width,
4 width and 8 width channels.
"""

from torch import Tensor, nn

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 101: (3, 13, 30, 3)}  # per stage, by depth
STRIDE = 16  # of the whole network: every stage halves the image


def pointwise_shortcut(channels_in: int, channels: int, stride: int) -> nn.Module:
    """The shortcut of a block: every stride-th pixel, projected if the number of channels changes."""
    if channels_in != channels:
        projection = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
        return nn.Sequential(projection, nn.BatchNorm2d(channels))
    return nn.MaxPool2d(1, stride) if stride > 1 else nn.Identity()  # pooling would keep an index for every pixel


class ImprovedBlock(nn.Module):
    """BN, conv, BN, PReLU, conv, BN beside a shortcut, from [B, channels_in, s, s] to [B, channels, s / stride, .]."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels_in),
            nn.Conv2d(channels_in, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut_layer = pointwise_shortcut(channels_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class IResNet(nn.Module):
    """A face network of depth 18, 34, 50 or 101: normalised images [B, 3, S, S] to embeddings [B, embedding].

    width: channels of the first stage, 64 in published weights. image_size: S, a multiple of 16. dropout: before the
    embedding layer.
    """

    def __init__(
        self, depth: int, *, width: int = 64, embedding: int = 512, image_size: int = 112, dropout: float = 0.4
    ):
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"depth={depth}: an IResNet has {', '.join(map(str, BLOCKS))} layers.")
        if image_size % STRIDE:
            raise ValueError(f"image_size={image_size}: an IResNet halves it four times: take a multiple of {STRIDE}.")
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
        )
        blocks = []
        channels_in = width
        for stage, count in enumerate(BLOCKS[depth]):
            channels = width * 2**stage
            for number in range(count):
                blocks.append(ImprovedBlock(channels_in, channels, stride=1 if number else 2))
                channels_in = channels
        self.body = nn.Sequential(*blocks)
        self.last_stage = len(blocks) - BLOCKS[depth][-1]  # its first block
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(channels_in),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(channels_in * (image_size // STRIDE) ** 2, embedding),
            nn.BatchNorm1d(embedding, affine=False),
        )

    @property
    def embedding_layer(self) -> nn.Linear:
        """The layer from the last map to the embedding; the only one that a frozen network trains."""
        return self.output_layer[3]

    def features(self, images: Tensor) -> Tensor:
        """The map before the embedding layer, [B, 8 width, S / 16, S / 16]."""
        return self.body(self.input_layer(images))

    def two_maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The map of the stage before the last, [B, 4 width, S / 8, S / 8], and that before the embedding layer."""
        finer = self.body[: self.last_stage](self.input_layer(images))
        return finer, self.body[self.last_stage :](finer)

    def forward(self, images: Tensor) -> Tensor:
        return self.output_layer(self.features(images))
