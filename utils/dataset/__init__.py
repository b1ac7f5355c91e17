"""The data set: its files, captions, audio, log-mels and word vectors, as the preprocessing steps make them."""
