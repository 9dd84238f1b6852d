"""Features to pictures: the parts of a figure as functions of tensors, and the sheet they go on."""
