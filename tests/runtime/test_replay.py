"""A training whose kernels a GPU replays takes the same steps as one whose kernels Python starts."""

import pytest
import torch
from torch import nn

from almanac.runtime.fit import FitConfig, fit


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_replayed_training_takes_the_same_steps(tmp_path):
    def trained(replay: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.GELU(), nn.Conv2d(16, 3, 3, padding=1))

        def loss(model, batch, generator):
            return (model(batch) - batch.flip(1)).square().mean()

        def batches(number):
            return torch.randn((8, 3, 12, 12), generator=torch.Generator().manual_seed(number))

        config = FitConfig(30, learning_rate=1e-2, warmup_steps=2, save_every=10, precision="fp32", replay=replay)
        validate = lambda model: loss(model, batches(999).cuda(), None).item()  # noqa: E731
        return fit(model, loss, batches, config, tmp_path / str(replay), device_name="cuda", validate=validate).weights

    plain, replayed = trained(False), trained(True)
    assert all(torch.allclose(replayed[name], tensor, atol=1e-4) for name, tensor in plain.items())
