"""The denoiser and its text tower, trained on cached latents."""

import lightning as L
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from experiments.train_emoji.dual_encoder import token_ids

# The noise schedule of Stable Diffusion; v-prediction, since epsilon says nothing about x0 at the noisy end.
NOISE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "steps_offset": 1,
}


class EmojiUNet(L.LightningModule):
    """Text-conditional v-prediction at full and half size.

    Args:
        tokenizer: Folder of the CLIPTokenizer.
        text_encoder: Folder of the dual encoder; its text tower is copied and trained along at 0.3 of the rate.
        peak_lr: Learning rate at the top of the cosine.
        channels: Width of each level.
    """

    def __init__(
        self, tokenizer: str, text_encoder: str, peak_lr: float = 1e-3, channels: tuple[int, ...] = (64, 128, 192)
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.fraction = 0.0
        self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer)
        self.text_encoder = CLIPTextModel.from_pretrained(text_encoder)
        self.noise = DDPMScheduler(**NOISE)
        self.unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            block_out_channels=channels,
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=2,
            norm_num_groups=16,
            cross_attention_dim=self.text_encoder.config.hidden_size,
        )

    def on_fit_start(self) -> None:
        self.text_encoder.train()

    def training_step(self, batch: dict, batch_index: int) -> Tensor:
        # Half-size steps cost a quarter, so they carry the whole batch and come often while the shapes are learnt.
        # The step's number decides, so that all processes do the same and none waits for another.
        draw = torch.rand((), generator=torch.Generator().manual_seed(self.global_step)).item()
        half = draw < (0.5 if self.fraction < 0.4 else 0.2)
        size = len(batch["caption"]) if half else max(1, len(batch["caption"]) // 2)
        x0 = batch["half" if half else "full"][:size]
        # A tenth of the captions is empty, for classifier-free guidance.
        captions = [caption if torch.rand(()) > 0.1 else "" for caption in batch["caption"][:size]]
        context = self.text_encoder(token_ids(self.tokenizer, captions).to(self.device)).last_hidden_state
        # Stratified timesteps: one in each of `size` equal parts of the schedule, which steadies the gradient.
        steps = self.noise.config.num_train_timesteps
        t = ((torch.arange(size, device=self.device) + torch.rand(size, device=self.device)) / size * steps).long()
        noise = torch.randn_like(x0)
        target = self.noise.get_velocity(x0, noise, t)
        v = self.unet(self.noise.add_noise(x0, noise, t), t, context).sample
        loss = F.mse_loss(v.float(), target)
        self.log("half" if half else "full", loss.detach())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        peak = self.hparams.peak_lr
        groups = [
            {"params": list(self.unet.parameters()), "lr": peak, "peak_lr": peak},
            {"params": list(self.text_encoder.parameters()), "lr": 0.3 * peak, "peak_lr": 0.3 * peak},
        ]
        return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
