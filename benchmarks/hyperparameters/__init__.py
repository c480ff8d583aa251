"""Searches of hyperparameters: gfo's bo and ASHA, and Optuna's TPE and Hyperband, at the same tokens."""
