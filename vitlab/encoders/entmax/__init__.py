"""1.5-entmax and its family: operator, normalizer of attention, fused attention."""
