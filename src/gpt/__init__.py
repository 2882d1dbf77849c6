"""gpt: given a list of messages comprising a conversation, the model returns a response."""
