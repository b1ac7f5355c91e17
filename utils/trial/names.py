"""Names of the files in a trial directory."""

CONF, METRICS, LOG = "conf.yaml", "metrics.jsonl", "train.log"
BEST, LAST = "checkpoint_best.pt", "checkpoint_last.pt"
RETRIEVAL_METRICS = "retrieval_metrics.json"
POINTS = "points"  # of a sweep's directory alone
LOCK = ".lock"  # of the process that trains it
