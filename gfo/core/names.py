"""The table of names: everything that gfo has by name, a line each. `gfo.core.registry` reads it.

A new optimizer, space, task, metric, baseline or model is a file and a line here. A name that ends in
":<name>" is a family: what follows its colon is given to the place, which makes the thing.
"""

from __future__ import annotations

OPENER = "config:open_evaluator"
"""What makes the evaluator of a run folder by its config, from a layer above that of runs."""

# kind -> name -> ("module:attribute" behind "gfo.", a line on it)
BUILT_IN: dict[str, dict[str, tuple[str, str]]] = {
    "optimizer": {
        "1+1-ea": (
            "optimizers.one_plus_one:OnePlusOneEA",
            "(1 + lambda) EA with heavy-tailed mutation, for genes",
        ),
        "bipop": (
            "optimizers.restarts:BIPOP",
            "restarts of any optimizer, large and small in turn",
        ),
        "bo": (
            "optimizers.bayesian:BayesianOptimization",
            "Bayesian optimization (BoTorch), from d = 21 a trust region",
        ),
        "blockwise": (
            "optimizers.blockwise:Blockwise",
            "any optimizer on one block of z at a time, as BBTv2 visits layers",
        ),
        "cma": ("optimizers.cma_es:CMAES", "CMA-ES, full covariance matrix (pycma)"),
        "de": (
            "optimizers.differential_evolution:DifferentialEvolution",
            "differential evolution as L-SHADE",
        ),
        "evoprompt": (
            "optimizers.evoprompt:EvoPrompt",
            "texts crossed and mutated by a language model, as a genetic algorithm or differential evolution",
        ),
        "fzoo": (
            "optimizers.fzoo:FZOO",
            "one-sided +-1 directions, a step over the standard deviation of losses",
        ),
        "ga": (
            "optimizers.genetic:GeneticAlgorithm",
            "genetic algorithm; also for integer and binary genes",
        ),
        "gepa": (
            "optimizers.gepa:GEPA",
            "texts that a language model writes anew after it has read what became of rows (package gepa)",
        ),
        "ipop": ("optimizers.restarts:IPOP", "restarts of any optimizer, each with twice the population"),
        "lm-ma-es": (
            "optimizers.lm_ma_es:LMMAES",
            "limited-memory matrix adaptation, for high dimensions",
        ),
        "nevergrad:<name>": (
            "optimizers.nevergrad:nevergrad_method",
            "any optimizer of nevergrad's registry, as nevergrad:DE",
        ),
        "nsga2": (
            "optimizers.nsga2:NSGA2",
            "NSGA-II, a genetic algorithm for several objectives and limits; also for genes",
        ),
        "openai-es": ("optimizers.openai_es:OpenAIES", "OpenAI's evolution strategy: antithetic pairs, Adam"),
        "optuna:<name>": (
            "optimizers.optuna:optuna_method",
            "any sampler of Optuna that needs no more than a seed, as optuna:tpe",
        ),
        "pso": ("optimizers.particle_swarm:ParticleSwarm", "particle swarm"),
        "random": (
            "optimizers.random_search:RandomSearch",
            "random search: standard normal, uniform in boxes",
        ),
        "sa": (
            "optimizers.simulated_annealing:SimulatedAnnealing",
            "simulated annealing, a population of chains",
        ),
        "sep-cma": (
            "optimizers.cma_es:SepCMAES",
            "CMA-ES with a diagonal covariance matrix (pycma), for high dimensions",
        ),
        "snes": (
            "optimizers.snes:SNES",
            "separable natural evolution strategy: a step size for each dimension",
        ),
        "sobol": (
            "optimizers.random_search:SobolSearch",
            "quasi-random search: a scrambled Sobol' sequence",
        ),
        "spsa": (
            "optimizers.spsa:SPSA",
            "simultaneous perturbation stochastic approximation; MeZO's estimator",
        ),
        "vkd-cma": (
            "optimizers.cma_es:VkDCMAES",
            "CMA-ES with a diagonal matrix and a few directions (pycma)",
        ),
    },
    "space": {
        "adapter": ("spaces.adapter:Adapter", "bottlenecks behind the feed-forward networks (Houlsby)"),
        "bias": ("spaces.scaling:BiasSpace", "additions to the outputs of linear modules (BitFit)"),
        "compression": (
            "spaces.compression:Compression",
            "how many bits each linear module gets, under a limit of bytes (GGUF types)",
        ),
        "deep-prompt": (
            "spaces.deep_prompt:DeepPrompt",
            "a soft prompt moved at the entrance of all or chosen layers (BBTv2)",
        ),
        "discrete-prompt": (
            "spaces.discrete_prompt:DiscretePrompt",
            "tokens in the {soft} place, picked from a list by integer genes",
        ),
        "lora": (
            "spaces.lora_subspace:LoRASubspace",
            "low-rank changes of weights; method lora-fa, lora-xs, svd, vera or tiny",
        ),
        "merge": (
            "spaces.merge:Merge",
            "how much of each of several checkpoints or adapters, by layers and kinds of modules",
        ),
        "prefix": ("spaces.prefix:Prefix", "keys and values in front of all tokens, started from real words"),
        "product": (
            "spaces.product:ProductSpace",
            "several spaces at once, a list of sections in the key spaces",
        ),
        "scaling": (
            "spaces.scaling:Scaling",
            "factors on keys, values and feed-forwards (method ia3), or on norms (norm), all or some",
        ),
        "soft-prompt": (
            "spaces.soft_prompt:SoftPrompt",
            "P embeddings in the template's {soft} place, in a random subspace of d dimensions",
        ),
        "texts": ("spaces.texts:Texts", "any text in the {soft} place, for evoprompt and gepa"),
        "words": (
            "spaces.words:Words",
            "words or phrases of a list in the {soft} place, by integer genes, without weights",
        ),
        "structure": (
            "spaces.structure:Structure",
            "which attentions and feed-forward networks run, a binary gene each",
        ),
    },
    "task": {
        "classification": (
            "tasks.classification:Classification",
            "the next words after the template say the label",
        ),
        "distance": (
            "tasks.distance:Distance",
            "the next tokens' distributions are to be the unchanged model's, on plain text",
        ),
        "distillation": (
            "tasks.distillation:Distillation",
            "the next word's distribution is to be a teacher's, such as that of a long instruction",
        ),
        "generation": (
            "tasks.generation:Generation",
            "the text that the model writes behind the template, scored by a metric",
        ),
        "language-modeling": (
            "tasks.language_modeling:LanguageModeling",
            "the likelihood of documents, in windows",
        ),
        "multiple-choice": (
            "tasks.multiple_choice:MultipleChoice",
            "each row has options, scored by their likelihood",
        ),
        "weighted": ("tasks.weighted:Weighted", "a weighted sum of tasks, and constraints"),
    },
    "metric": {
        "accuracy": ("tasks.parts.metrics:ACCURACY", "the share of rows whose label is right"),
        "agreement": ("tasks.parts.metrics:AGREEMENT", "the share of rows with the teacher's likeliest word"),
        "answer_tokens": ("tasks.parts.metrics:ANSWER_TOKENS", "the mean length of the answers"),
        "bleu": ("tasks.parts.metrics:BLEU", "BLEU of the batch, by sacrebleu"),
        "ce": ("tasks.parts.metrics:CE", "cross-entropy over the labels"),
        "chrf": ("tasks.parts.metrics:CHRF", "chrF of the batch, by sacrebleu"),
        "countdown": (
            "tasks.parts.metrics:COUNTDOWN",
            "the share of answers that reach the target with the row's numbers",
        ),
        "exact_match": (
            "tasks.parts.metrics:EXACT_MATCH",
            "the share of answers that are a reference, by SQuAD's normalization",
        ),
        "gsm8k": ("tasks.parts.metrics:GSM8K", "the share of answers with the number of GSM8K's solution"),
        "json_schema": ("tasks.parts.metrics:JSON_SCHEMA", "the share of answers that are JSON of a schema"),
        "loss": ("core.metric:LOSS", "what the optimizer minimises"),
        "macro_f1": ("tasks.parts.metrics:MACRO_F1", "the mean of the labels' F1 scores"),
        "math": (
            "tasks.parts.metrics:MATH",
            "the share of answers that are mathematically the reference, by math-verify",
        ),
        "mcc": ("tasks.parts.metrics:MCC", "Matthews correlation of the labels"),
        "pass@k": (
            "tasks.parts.metrics:PASS_AT_K",
            "the share of k drawn programs of which one passes the row's tests",
        ),
        "pearson": ("tasks.parts.metrics:PEARSON", "Pearson's correlation of labels that are numbers"),
        "perplexity": (
            "tasks.parts.metrics:PERPLEXITY",
            "exp of a token's mean negative log-likelihood",
        ),
        "regex": (
            "tasks.parts.metrics:REGEX_MATCH",
            "the share of answers whose last match of a regular expression is the reference",
        ),
        "rouge1": ("tasks.parts.metrics:ROUGE1", "ROUGE-1, F measure, by rouge-score"),
        "rouge2": ("tasks.parts.metrics:ROUGE2", "ROUGE-2, F measure, by rouge-score"),
        "rougeL": ("tasks.parts.metrics:ROUGEL", "ROUGE-L, F measure, by rouge-score"),
        "score": ("tasks.parts.metrics:SCORE", "what a function of the user's gives"),
        "spearman": (
            "tasks.parts.metrics:SPEARMAN",
            "Spearman's rank correlation of labels that are numbers",
        ),
        "teacher_accuracy": (
            "tasks.parts.metrics:TEACHER_ACCURACY",
            "the share of rows whose label the teacher says",
        ),
        "token_f1": (
            "tasks.parts.metrics:TOKEN_F1",
            "F1 of the words shared with a reference, by SQuAD's normalization",
        ),
    },
    "baseline": {
        "eggroll": (
            "baselines.eggroll:eggroll",
            "EGGROLL, an evolution strategy on all matrices by perturbations of rank 1",
        ),
        "full": ("baselines.weights:full", "all weights of a copy of the model, AdamW"),
        "gradient": ("baselines.searched:gradient", "AdamW in the same space, through its decode"),
        "in-context": (
            "baselines.prompts:in_context",
            "k labelled rows in front of each row; nothing is trained",
        ),
        "linear-head": (
            "baselines.linear_head:linear_head",
            "logistic regression on the last hidden state",
        ),
        "lora": ("baselines.weights:lora", "LoRA by PEFT, AdamW"),
        "manual": (
            "baselines.prompts:manual",
            "the template with a text in the {soft} place; nothing is trained",
        ),
        "mezo": ("baselines.weights:mezo", "MeZO on all weights of a copy: two forward passes a step"),
        "mezo-lora": ("baselines.weights:mezo_lora", "MeZO on LoRA's weights"),
        "prefix-tuning": ("baselines.searched:prefix_tuning", "all numbers of a Prefix, AdamW"),
        "prompt-tuning": ("baselines.searched:prompt_tuning", "all numbers of a SoftPrompt, AdamW"),
    },
    "model": {
        "smollm2-135m": (
            "models.download:SMOLLM2_135M",
            "SmolLM2-135M-Instruct, dequantized from 4 bits (Q4_1) to float32: 30 layers, width 576",
        ),
    },
}
