"""Makes the golden numbers that stages/compute/tests/golden.rs compares with: GPT-2 in PyTorch, in double precision.

    python tests/golden/make_golden.py        # needs torch, transformers, safetensors; writes beside itself

Weights and token ids are drawn in f32 from a fixed seed; everything computed from them is computed in f64 and
stored as f32, so the files hold the true numbers and a test sees only Millrace's own rounding.

weights.safetensors   Hugging Face names; larger than a real initialisation and with non-zero biases, so that no term is trivial
batches.safetensors   tokens, targets `[10, 4, 40]` i32; masked_targets (-1 where ignored) and document_starts `[4, 40]`
logits.safetensors    step 0, first two sequences (`plain`); with document mask, first sequence (`masked`)
gradients.safetensors gradient of the mean loss at step 0, every tensor; `masked.*`: with document mask and ignored targets, layer 0 and the small tensors
golden.json           shape, losses, gradient norms and learning rates of ten AdamW steps, the schedule
"""
import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

HERE = Path(__file__).parent
LAYERS, HEADS, WIDTH, FEED_FORWARD, VOCABULARY, LENGTH, SEQUENCES, STEPS = 3, 6, 72, 288, 1009, 40, 4, 10
PEAK, FLOOR, WARMUP, CLIP, DECAY, BETAS, EPSILON = 3e-3, 0.1, 3, 1.0, 0.1, (0.9, 0.95), 1e-8


def learning_rate(step: int) -> float:
    """Linear warmup to PEAK, then a cosine to FLOOR * PEAK."""
    if step < WARMUP:
        return PEAK * (step + 1) / WARMUP
    progress = (step - WARMUP) / (STEPS - WARMUP)
    return FLOOR * PEAK + (1 - FLOOR) * PEAK * 0.5 * (1 + math.cos(math.pi * progress))


def build() -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_inner=FEED_FORWARD,
        activation_function="gelu_new", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, layer_norm_epsilon=1e-5,
        bos_token_id=VOCABULARY - 1, eos_token_id=VOCABULARY - 1, attn_implementation="eager",
    )
    model = GPT2LMHeadModel(config)
    generator = torch.Generator().manual_seed(20)
    with torch.no_grad():
        for name, p in model.named_parameters():
            normal = torch.randn(p.shape, generator=generator)
            if name.endswith("weight") and p.dim() == 1:
                p.copy_(1 + 0.2 * normal)
            elif name.endswith("bias"):
                p.copy_(0.1 * normal)
            else:
                p.copy_((0.3 if "wte" in name else 0.15) * normal)
    return model


def loss_of(model, tokens, targets, mask=None):
    logits = model(input_ids=tokens, attention_mask=mask).logits
    flat = logits.reshape(-1, VOCABULARY)
    return logits, torch.nn.functional.cross_entropy(flat, targets.reshape(-1), ignore_index=-1)


def document_mask(starts):
    """[sequences, 1, length, length], added to the scores: 0 where a token may look, -inf (almost) elsewhere."""
    position = torch.arange(LENGTH)
    causal = position[None, :, None] >= position[None, None, :]
    inside = position[None, None, :] >= starts[:, :, None]
    allowed = (causal & inside)[:, None]
    return torch.zeros(allowed.shape, dtype=torch.float64).masked_fill(~allowed, torch.finfo(torch.float64).min)


def f32(tensors):
    return {k: v.detach().to(torch.float32).contiguous().clone() for k, v in tensors.items()}


def main() -> None:
    torch.manual_seed(0)
    model = build()
    save_file(f32(dict(model.named_parameters())), HERE / "weights.safetensors")
    model = model.double()
    generator = torch.Generator().manual_seed(21)
    # Skewed ids, so that some occur often in a batch.
    drawn = (torch.rand((STEPS, SEQUENCES, LENGTH + 1), generator=generator) ** 3 * VOCABULARY).long()
    tokens, targets = drawn[:, :, :-1].contiguous(), drawn[:, :, 1:].contiguous()
    starts = torch.zeros((SEQUENCES, LENGTH), dtype=torch.long)
    for sequence, cuts in enumerate([[7, 8, 30], [], [1, 33], [39]]):
        for cut in cuts:
            starts[sequence, cut:] = cut
    masked_targets = targets[0].clone()
    masked_targets[:, :-1][starts[:, 1:] != starts[:, :-1]] = -1  # across documents
    masked_targets[3, :5] = -1
    to_i32 = {"tokens": tokens, "targets": targets, "masked_targets": masked_targets, "document_starts": starts}
    save_file({k: v.to(torch.int32).contiguous() for k, v in to_i32.items()}, HERE / "batches.safetensors")

    logits, loss = loss_of(model, tokens[0], targets[0])
    loss.backward()
    gradients = {k: p.grad.clone() for k, p in model.named_parameters()}
    model.zero_grad()
    masked_logits, masked_loss = loss_of(model, tokens[0], masked_targets, document_mask(starts))
    masked_loss.backward()
    other = tokens[0].clone()
    other[0, :30] = 3  # the mask holds: another document before changes nothing
    assert torch.equal(loss_of(model, other, targets[0], document_mask(starts))[0][0, 30:], masked_logits[0, 30:])
    assert not torch.allclose(masked_logits[0, 30:], logits[0, 30:])
    masked = {k: p.grad.clone() for k, p in model.named_parameters()}
    kept = {f"masked.{k}": g for k, g in masked.items() if ".h.0." in k or g.numel() < 5000}
    save_file(f32(gradients | kept), HERE / "gradients.safetensors")
    save_file(f32({"plain": logits[:2], "masked": masked_logits[:1]}), HERE / "logits.safetensors")

    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=BETAS, eps=EPSILON)
    losses, norms, rates = [], [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        _, loss = loss_of(model, tokens[step], targets[step])
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP).item())
        rates.append(learning_rate(step))
        for group in optimizer.param_groups:
            group["lr"] = rates[-1]
        optimizer.step()
        losses.append(loss.item())
    golden = {
        "shape": {"layers": LAYERS, "heads": HEADS, "width": WIDTH, "feed_forward": FEED_FORWARD,
                  "vocabulary": VOCABULARY, "length": LENGTH, "sequences": SEQUENCES},
        "optimizer": {"peak": PEAK, "floor": FLOOR, "warmup": WARMUP, "steps": STEPS, "clip": CLIP, "decay": DECAY,
                      "beta1": BETAS[0], "beta2": BETAS[1], "epsilon": EPSILON,
                      "schedule": "step < warmup: peak * (step + 1) / warmup; then floor * peak + (1 - floor) * peak"
                                  " * (1 + cos(pi * (step - warmup) / (steps - warmup))) / 2"},
        "losses": losses, "gradient_norms": norms, "learning_rates": rates, "masked_loss": masked_loss.item(),
        "masked_targets": int((masked_targets >= 0).sum()),
        "masked_norm": math.sqrt(sum((g**2).sum().item() for g in masked.values())),
        "torch": torch.__version__,
    }
    (HERE / "golden.json").write_text(json.dumps(golden, indent=2) + "\n")
    print(json.dumps(golden, indent=2))


if __name__ == "__main__":
    main()
