# SPDX-License-Identifier: Apache-2.0
"""A network with fusion behind it, as the one graph that robots load (docs/graph_contract.md)."""

from __future__ import annotations

import copy
import itertools
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dvps_ros.errors import ConfigError
from dvps_ros.labels import LabelSpace
from dvps_ros.networks import Network
from dvps_ros.runtime.manifest import StateTensor

CONVOLUTION_AND_NORM = ("convolution", "normalization")
"""What the transformers library calls a convolution, and the batch normalisation that follows it."""


class DeployedGraph(nn.Module):
    """Camera bytes in, labels out.

    Args:
        network: its batch normalisation gets folded, its convolution weights rounded to float16 (as
            they are stored), in a copy.
        labels: the classes it was trained for.
        fusion: options of the network's fusion, such as ``min_score``.

    Raises:
        ConfigError: a weight does not fit float16, or the fusion has no such option.
    """

    def __init__(self, network: Network, labels: LabelSpace, **fusion: Any) -> None:
        super().__init__()
        self.network = folded(network)
        made: Any = network.fusion(labels.thing_ids, **fusion)
        self.fusion = made
        self.state_names = tuple(network.state_shapes)
        self.state = tuple(
            StateTensor(f"state_{name}", (1, *shape)) for name, shape in network.state_shapes.items()
        )
        self.input_names = ("image", "intrinsics", *(s.name for s in self.state))
        self.output_names = (*made.outputs, *(f"next_{s.name}" for s in self.state))

    def forward(self, image: Tensor, intrinsics: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """The outputs in the order of ``output_names``.

        Args:
            image: uint8 [1,H,W,3] RGB.
            intrinsics: float32 [1,4].
            state: float32, in the order of the network's ``state_shapes``.
        """
        # Some runtimes know uint8 at the very ends of a graph only, so the cast comes first.
        pixels = image.float().permute(0, 3, 1, 2)
        prediction = self.network(pixels, intrinsics, dict(zip(self.state_names, state, strict=True)))
        outputs = self.fusion(prediction)
        # What is known by rows only fusion can give; the rest of the memory is the network's.
        outputs |= {f"next_state_{name}": value for name, value in prediction.state.items()}
        return tuple(outputs[name] for name in self.output_names)


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
        pair = [getattr(module, name, None) for name in CONVOLUTION_AND_NORM]
        if isinstance(pair[0], nn.Conv2d) and isinstance(pair[1], nn.BatchNorm2d):
            both = fuse_conv_bn_eval(pair[0], pair[1]), nn.Identity()
            for name, part in zip(CONVOLUTION_AND_NORM, both, strict=True):
                setattr(module, name, part)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            rounded = module.weight.half().float()
            if not rounded.isfinite().all():
                raise ConfigError(f"weights of {name} do not fit float16; did the training diverge?")
            module.weight.copy_(rounded)
    return network
