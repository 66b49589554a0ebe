"""Names of the files in the folders that commands make, for what writes them and for what makes pages of them.

A run's are in `config/run.py` and `run/run_folder.py`.
"""

REPORT = "report.html"
ATTACK, ATTACK_ROWS, ATTACK_MANIFEST = "attack.json", "rows.jsonl", "manifest.json"
TRAINING, TRAINING_LOG, PURIFIER = "training.json", "log.jsonl", "purifier.safetensors"
GATE = "gate.safetensors"
EVALUATION, EVALUATION_RECORDS, EVALUATION_FIGURES = "settings.json", "records", "evaluation.json"
