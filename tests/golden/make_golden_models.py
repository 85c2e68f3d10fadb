"""Makes the golden numbers that stages/compute/tests/golden_models.rs compares with: Llama, Qwen 3 and NanoChat in
PyTorch, in double precision.

    python tests/golden/make_golden_models.py [llama | qwen3 | nanochat]...    # needs torch, transformers, safetensors

As make_golden.py does it for GPT-2, with its optimizer and masks; smaller. Two models of each type, with a head of its own
(`untied.`) and without (`tied.`), four heads of queries to two of keys and values. The heads of Qwen 3 are wider than
their share of the model's width.

TYPE.safetensors     weights, tokens and targets `[10, 4, 24]` i32, masked_targets and document_starts `[4, 24]`,
                     logits of step 0, gradients of the mean loss at step 0, plain and `masked.`
TYPE.json            losses and gradient norms of ten AdamW steps, the masked loss
"""
import json
import sys

import torch
import transformers
from safetensors.torch import save_file

from make_golden import BETAS, CLIP, DECAY, EPSILON, HERE, STEPS, f32, learning_rate

LAYERS, HEADS, KV_HEADS, WIDTH, FEED_FORWARD, VOCABULARY, LENGTH, SEQUENCES = 2, 4, 2, 32, 40, 61, 24, 4
TYPES = {
    "llama": ("Llama", {"rms_norm_eps": 1e-5}),
    "qwen3": ("Qwen3", {"rms_norm_eps": 1e-6, "head_dim": 12}),
    "nanochat": ("NanoChat", {"rms_norm_eps": 1e-6, "final_logit_softcapping": 2.5, "pad_token_id": None}),
}


def build(kind: str, tied: bool):
    name, keys = TYPES[kind]
    config = getattr(transformers, f"{name}Config")(
        vocab_size=VOCABULARY, max_position_embeddings=LENGTH, hidden_size=WIDTH, intermediate_size=FEED_FORWARD,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS,
        rope_parameters={"rope_theta": 10_000.0, "rope_type": "default"}, tie_word_embeddings=tied,
        attn_implementation="eager", **keys,
    )
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    generator = torch.Generator().manual_seed(21)
    with torch.no_grad():
        for p in model.parameters():
            normal = torch.randn(p.shape, generator=generator)
            p.copy_(1 + 0.2 * normal if p.dim() == 1 else 0.25 * normal)
    return model.double()


def loss_of(model, tokens, targets, mask=None):
    logits = model(input_ids=tokens, attention_mask=mask).logits
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCABULARY), targets.reshape(-1), ignore_index=-1)
    return logits, loss


def gradients_of(model, tokens, targets, mask=None):
    model.zero_grad()
    logits, loss = loss_of(model, tokens, targets, mask)
    loss.backward()
    return logits, loss.item(), {k: p.grad.clone() for k, p in model.named_parameters()}


def make(type: str) -> None:
    generator = torch.Generator().manual_seed(22)
    drawn = (torch.rand((STEPS, SEQUENCES, LENGTH + 1), generator=generator) ** 2 * VOCABULARY).long()
    tokens, targets = drawn[:, :, :-1].contiguous(), drawn[:, :, 1:].contiguous()
    starts = torch.zeros((SEQUENCES, LENGTH), dtype=torch.long)
    for sequence, cuts in enumerate([[5, 6, 17], [], [1, 20], [23]]):
        for cut in cuts:
            starts[sequence, cut:] = cut
    masked_targets = targets[0].clone()
    masked_targets[:, :-1][starts[:, 1:] != starts[:, :-1]] = -1
    position = torch.arange(LENGTH)
    allowed = (position[None, :, None] >= position[None, None, :]) & (position[None, None, :] >= starts[:, :, None])
    lowest = torch.finfo(torch.float64).min
    mask = torch.zeros(allowed[:, None].shape, dtype=torch.float64).masked_fill(~allowed[:, None], lowest)
    ids = {"tokens": tokens, "targets": targets, "masked_targets": masked_targets, "document_starts": starts}
    tensors = {k: v.to(torch.int32).contiguous() for k, v in ids.items()}
    golden = {"transformers": transformers.__version__, "torch": torch.__version__}
    for kind in ["tied", "untied"]:
        model = build(type, kind == "tied")
        keep = {f"weights.{k}": p for k, p in model.named_parameters()}
        logits, _, gradients = gradients_of(model, tokens[0], targets[0])
        masked_logits, masked_loss, masked = gradients_of(model, tokens[0], masked_targets, mask)
        keep |= {"logits": logits, "masked.logits": masked_logits}
        keep |= {f"gradients.{k}": g for k, g in gradients.items()}
        keep |= {f"masked.gradients.{k}": g for k, g in masked.items()}
        tensors |= {f"{kind}.{k}": v for k, v in f32(keep).items()}
        matrices = [p for p in model.parameters() if p.dim() >= 2]
        gains = [p for p in model.parameters() if p.dim() < 2]
        groups = [{"params": matrices, "weight_decay": DECAY}, {"params": gains, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=EPSILON)
        losses, norms = [], []
        for step in range(STEPS):
            _, loss, _ = gradients_of(model, tokens[step], targets[step])
            norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP).item())
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step)
            optimizer.step()
            losses.append(loss)
        golden[kind] = {"losses": losses, "gradient_norms": norms, "masked_loss": masked_loss}
    save_file(tensors, HERE / f"{type}.safetensors")
    (HERE / f"{type}.json").write_text(json.dumps(golden, indent=2) + "\n")
    print(json.dumps(golden, indent=2))


if __name__ == "__main__":
    for type in sys.argv[1:] or TYPES:
        make(type)
