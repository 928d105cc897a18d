"""The denoiser and its text tower, trained together on latents."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from experiments.styles.muon import Muon, groups
from experiments.styles.vae import CHANNELS

# Stable Diffusion's schedule with its last step made pure noise: a background's colour is then the model's to choose.
NOISE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "steps_offset": 1,
}
WIDTH = 128
TENSORS = ("latents", "tokens", "noise", "t")


def text_tower(tokenizer: CLIPTokenizer, width: int = WIDTH) -> CLIPTextModel:
    """Two layers of attention over 16 tokens, from nothing."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


class StylesUNet(L.LightningModule):
    """Text-conditional v-prediction at full and half size, every noise level weighted alike.

    Args:
        tokenizer: Folder of the CLIPTokenizer.
        channels: Width of each level.
        width: Width of the text tower.
        shares: Parts of a batch, each in a thread of its own. On a CPU two of them with one thread for each operator
            are a third faster than two threads for each, and lose less beside other work.
    """

    def __init__(
        self, tokenizer: str, channels: tuple[int, ...] = (64, 128, 192), width: int = WIDTH, shares: int = 1
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.values: dict[str, float] = {}
        self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer)
        self.text_encoder = text_tower(self.tokenizer, width)
        self.scheduler = DDPMScheduler(**NOISE)
        self.unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            block_out_channels=channels,
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=2,
            norm_num_groups=16,
            cross_attention_dim=width,
        )

    def on_train_start(self) -> None:
        # Not sooner: the average of the weights begins as a copy of this module, and threads cannot be copied.
        self.pool = ThreadPoolExecutor(self.hparams["shares"])

    def on_train_end(self) -> None:
        self.pool.shutdown()

    def training_step(self, batch: dict[str, Any], batch_index: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        size, shares = len(batch["t"]), self.hparams["shares"]
        # Gradients of two shares add up to the same whichever comes first.
        parts = [{name: batch[name][own::shares] for name in TENSORS} for own in range(shares)]
        weights = [len(part["t"]) / size for part in parts]
        losses = list((self.pool.map if shares > 1 else map)(self.learn, parts, weights))
        optimizer.step()
        # Read without waiting on a GPU only now and then: reading stops its queue.
        if self.device.type == "cpu" or batch["step"] % 50 == 0:
            self.values = {"half" if batch["half"] else "full": sum(losses).item()}
        else:
            self.values = {}

    def learn(self, part: dict[str, Tensor], weight: float) -> Tensor:
        """Add a part's gradients, by its weight in the batch; its share of the loss."""
        latents, noise, t = part["latents"], part["noise"], part["t"]
        context = self.text_encoder(part["tokens"]).last_hidden_state
        target = self.scheduler.get_velocity(latents, noise, t)
        v = self.unet(self.scheduler.add_noise(latents, noise, t), t, context).sample
        loss = F.mse_loss(v.float(), target) * weight
        self.manual_backward(loss)
        return loss.detach()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return Muon(groups(self, apart=("embed", "conv_in", "conv_out")), threads=self.hparams["shares"])
