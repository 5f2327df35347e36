"""InstructVLA: a vision-language model whose latent actions steer a flow-matching action expert."""
