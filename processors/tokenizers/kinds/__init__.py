"""The kinds of tokenizer: for each, the pipeline of the ``tokenizers`` library and how it is trained."""
