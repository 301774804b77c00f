"""The attention processor that reads calibrated references."""


class ReferenceAttnProcessor:
    """Attention whose conditional rows see the visible tokens of the bank: self-attention too, cross-attention instead.

    Off (outside a UNet call that `CalibrationState` has opened) it is the processor that it stands for.

    Args:
        state: the CalibrationState of the pipeline.
        name: of the attention module.
        original: the processor that it replaces.
    """

    # diffusers sets these on every processor that has them; the bank is read by our own operation with any backend.
    _attention_backend = None
    _parallel_config = None

    def __init__(self, state, name: str, original):
        self.state, self.name, self.original = state, name, original

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *args, **kwargs):
        if not self.state.enabled:
            return self.original(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
        seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            project(x).unflatten(2, (attn.heads, -1))
            for project, x in ((attn.to_q, hidden_states), (attn.to_k, seen), (attn.to_v, seen))
        )
        out = self.state.attend(self.name, attn, q, k, v)
        out = attn.to_out[0](out.flatten(2))
        return attn.to_out[1](out)
