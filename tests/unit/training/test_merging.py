"""Merged adapters change the weights by the weighted sum of what each one changes."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from agentprm.errors import ConfigurationError, InputError
from agentprm.training.merging import breadcrumbs, merge_adapters

LAYERS = ("base_model.model.model.layers.0.self_attn.q_proj", "base_model.model.model.layers.0.mlp.up_proj")


def adapter(folder, seed, rank=2, alpha=4, base="tiny", layers=LAYERS):
    torch.manual_seed(seed)
    folder.mkdir()
    tensors = {}
    for layer in layers:
        tensors[f"{layer}.lora_A.weight"] = torch.randn(rank, 6)
        tensors[f"{layer}.lora_B.weight"] = torch.randn(5, rank)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def change(folder, layer):
    tensors = load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    product = tensors[f"{layer}.lora_B.weight"] @ tensors[f"{layer}.lora_A.weight"]
    return product * config["lora_alpha"] / config["r"]


def test_an_average_is_exact(tmp_path):
    one, two = adapter(tmp_path / "1", 1), adapter(tmp_path / "2", 2, rank=3, alpha=3)
    merge_adapters([one, two], tmp_path / "m")
    merge_adapters([one, two], tmp_path / "w", weights=[2, -1])
    for layer in LAYERS:
        a, b = change(one, layer), change(two, layer)
        torch.testing.assert_close(change(tmp_path / "m", layer), (a + b) / 2)
        torch.testing.assert_close(change(tmp_path / "w", layer), 2 * a - b)


def test_a_rank_cuts_to_the_largest_singular_values(tmp_path):
    one, two = adapter(tmp_path / "1", 1), adapter(tmp_path / "2", 2)
    kept = merge_adapters([one, two], tmp_path / "m", rank=2)
    for layer in LAYERS:
        whole = (change(one, layer) + change(two, layer)) / 2
        values = torch.linalg.svdvals(whole)
        off = (change(tmp_path / "m", layer) - whole).square().sum()
        torch.testing.assert_close(off, values[2:].square().sum(), rtol=1e-4, atol=1e-5)
        assert kept[layer] == pytest.approx(
            float(values[:2].square().sum() / values.square().sum()), rel=1e-5
        )


def test_breadcrumbs_drop_the_smallest_and_the_largest():
    layer = torch.tensor([[0.1, -5.0, 2.0], [-0.2, 3.0, 0.0]])
    expected = torch.tensor([[0.0, 0.0, 2.0], [-0.2, 3.0, 0.0]])
    assert torch.equal(breadcrumbs(layer, 2 / 6, 1 / 6), expected)


def test_merged_breadcrumbs_are_the_sum_of_masked_changes(tmp_path):
    one, two = adapter(tmp_path / "1", 1), adapter(tmp_path / "2", 2)
    merge_adapters([one, two], tmp_path / "m", method="breadcrumbs", smallest=0.5, largest=0.1, rank=5)
    for layer in LAYERS:
        expected = sum(breadcrumbs(0.3 * change(folder, layer), 0.5, 0.1) for folder in (one, two))
        torch.testing.assert_close(change(tmp_path / "m", layer), expected, rtol=1e-4, atol=1e-5)


def test_what_does_not_belong_together_is_refused(tmp_path):
    one = adapter(tmp_path / "1", 1)
    with pytest.raises(InputError, match="two"):
        merge_adapters([one], tmp_path / "m")
    with pytest.raises(InputError, match="another base"):
        merge_adapters([one, adapter(tmp_path / "2", 2, base="other")], tmp_path / "m")
    with pytest.raises(InputError, match="other layers"):
        merge_adapters([one, adapter(tmp_path / "3", 2, layers=LAYERS[:1])], tmp_path / "m")
    with pytest.raises(ConfigurationError, match="rank"):
        merge_adapters([one, one], tmp_path / "m", method="breadcrumbs")
    with pytest.raises(ConfigurationError, match="weights"):
        merge_adapters([one, one], tmp_path / "m", weights=[1])
    with pytest.raises(ConfigurationError, match="shares"):
        merge_adapters([one, one], tmp_path / "m", method="breadcrumbs", rank=2, smallest=0.9, largest=0.2)
