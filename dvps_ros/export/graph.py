# SPDX-License-Identifier: Apache-2.0
"""A network with fusion behind it, as the one graph that robots load (docs/graph_contract.md)."""

from __future__ import annotations

import copy
import itertools

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dvps_ros.errors import ConfigError
from dvps_ros.labels import LabelSpace
from dvps_ros.networks import Network
from dvps_ros.networks.fusion import Fusion
from dvps_ros.panoptic.fuse import FusionConfig
from dvps_ros.runtime.manifest import StateTensor

MAP_OUTPUTS = (
    "class_map",
    "segment_map",
    "depth_m",
    "segments",
    "embedding",
    "confidence",
    "class_logits",
    "nearest",
    "latent",
)


class DeployedGraph(nn.Module):
    """Camera bytes in, labels out.

    Args:
        network: its batch normalisation gets folded, its convolution weights rounded to float16 (as
            they are stored), in a copy.
        labels: the classes it was trained for.
    """

    def __init__(self, network: Network, labels: LabelSpace, fusion: FusionConfig | None = None) -> None:
        super().__init__()
        self.network = folded(network)
        self.fusion = Fusion(labels.thing_ids, fusion)
        self.state_names = tuple(network.state_channels)
        self.state = tuple(
            StateTensor(f"state_{name}", (1, channels, f"H/{stride}", f"W/{stride}"))
            for name, (channels, stride) in network.state_channels.items()
        )
        self.input_names = ("image", "intrinsics", *(s.name for s in self.state))
        self.output_names = (*MAP_OUTPUTS, *(f"next_{s.name}" for s in self.state))

    def forward(self, image: Tensor, intrinsics: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """The outputs in the order of ``output_names``.

        Args:
            image: uint8 [1,H,W,3] RGB.
            intrinsics: float32 [1,4].
            state: float32, in the order of the network's ``state_channels``.
        """
        # Some runtimes know uint8 at the very ends of a graph only, so the cast comes first.
        pixels = image.float().permute(0, 3, 1, 2)
        prediction = self.network(pixels, intrinsics, dict(zip(self.state_names, state, strict=True)))
        outputs = self.fusion(prediction)
        return (*(outputs[name] for name in MAP_OUTPUTS), *(prediction.state[n] for n in self.state_names))


def folded(network: Network) -> Network:
    """A copy in evaluation mode, batch normalisation folded into the convolutions before it, and
    their weights rounded to float16.

    Raises:
        ConfigError: a folded weight does not fit float16.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential):
            for i, (conv, norm) in enumerate(itertools.pairwise(list(module))):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module[i], module[i + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            rounded = module.weight.half().float()
            if not rounded.isfinite().all():
                raise ConfigError(f"weights of {name} do not fit float16; did the training diverge?")
            module.weight.copy_(rounded)
    return network
