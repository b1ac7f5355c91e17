"""The commands that make the files, as error messages and provenance.json name them."""

SYNTHESIS = "preprocessing/0_demo_dataset.py"
CLEANING = "preprocessing/1_text_cleaning.py"
INDEXING = "preprocessing/2_clotho_dataset.py"
EMBEDDING = "preprocessing/3_word2vec_embeddings.py"
LOG_MELS = "preprocessing/4_audio_logmel.py"
PREPROCESSING = (CLEANING, INDEXING, EMBEDDING, LOG_MELS)
TRAINING = "main.py"
SWEEPING = "main.py --sweep"
SCORING = "postprocessing/1_xmodal_scores.py"
MEASURING = "postprocessing/2_xmodal_retrieval.py"
