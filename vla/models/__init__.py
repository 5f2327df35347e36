"""Models: vision-language backbone, action queries, action expert and what joins them."""
