# One search per (data set, method): propose a trial, train its folds, propose the next; then select the best.
# The number of trials is known, so the whole chain is known: no checkpoints, exact dry runs.
# Its jobs come before the final runs: a search is the longest chain there is, and final runs, which need not wait for
# one another, fill what it leaves free.
# A study that takes its hyperparameters from elsewhere has the rules `take` and `cite` in the place of all of it.


rule propose:
    input:
        unpack(rounds_before),
        study=ancient(str(STUDY_FILE)),
    output:
        trial=f"{RUN}/search/{{trial}}/trial.yaml",
        history=f"{RUN}/search/{{trial}}/history.json",
    log:
        f"{LOGS}/{{dataset}}/{{method}}/search/{{trial}}/propose.log",
    priority: 1
    localrule: True
    conda:
        ENVIRONMENT
    params:
        setting=setting_of,
        ranges=ranges_of,
        grid=lambda wildcards: STUDY.method(wildcards.method).grid,
        sobol_trials=PROTOCOL.sobol_trials,
        per_round=PER_ROUND,
        seed=PROTOCOL.seed,
    shell:
        "python -m dml.stages.propose --study {input.study:q} --dataset {wildcards.dataset} --method {wildcards.method}"
        " --number {wildcards.trial} --history {input.history:q} --folds {input.folds:q}"
        " --output {output.trial:q} --output-history {output.history:q} 2> {log:q}"


rule train_trial:
    input:
        study=ancient(str(STUDY_FILE)),
        trial=f"{RUN}/search/{{trial}}/trial.yaml",
        folds=f"{RESULTS}/{{dataset}}/folds.csv",
        trainval=packed("trainval", ".sha256"),
        pixels=ancient(packed("trainval", ".pixels", ".npz")),
        weights=ancient(weights_file),
        teacher=teachers("0"),
    output:
        [f"{RUN}/search/{{trial}}/fold{fold}.json" for fold in FOLDS_OF_A_JOB],
    log:
        f"{LOGS}/{{dataset}}/{{method}}/search/{{trial}}/train{OF_THE_FOLD}.log",
    priority: 1
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
    params:
        fold=lambda wildcards, output: folds_of(output),
        trained=what_is_trained,
    shell:
        # exec: a signal to stop must reach the training itself
        "exec python -m dml.stages.train_trial --study {input.study:q} --dataset {wildcards.dataset}"
        " --number {wildcards.trial} --trial {input.trial:q} --trainval {input.trainval:q} --folds {input.folds:q}"
        " --weights {input.weights:q} --teacher {input.teacher:q} --device $DML_DEVICE --threads {threads} --fold {params.fold:q} --output {output:q}"
        " 2> {log:q}"


rule take:
    input:
        study=ancient(str(STUDY_FILE)),
    output:
        f"{RUN}/best_trial.yaml",
    log:
        f"{LOGS}/{{dataset}}/{{method}}/take.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        setting=setting_of,
        values=given_values,
    shell:
        "python -m dml.stages.take --study {input.study:q} --method {wildcards.method} --values {params.values:q}"
        " --output {output:q} 2> {log:q}"


# A rule of its own: what is only said of the values trains nothing again.
rule cite:
    input:
        study=ancient(str(STUDY_FILE)),
    output:
        best=f"{RUN}/best.yaml",
        history=f"{RUN}/history.json",
    log:
        f"{LOGS}/{{dataset}}/{{method}}/cite.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        ranges=ranges_of,
        values=given_values,
        origin=origin_of(STUDY),
    shell:
        "python -m dml.stages.cite --study {input.study:q} --dataset {wildcards.dataset} --method {wildcards.method}"
        " --values {params.values:q} --origin {params.origin:q} --output {output.best:q}"
        " --output-history {output.history:q} 2> {log:q}"


rule select:
    input:
        unpack(last_round),
        study=ancient(str(STUDY_FILE)),
    output:
        best=f"{RUN}/best.yaml",
        trial=f"{RUN}/best_trial.yaml",
        history=f"{RUN}/history.json",
    log:
        f"{LOGS}/{{dataset}}/{{method}}/select.log",
    priority: 1
    localrule: True
    conda:
        ENVIRONMENT
    params:
        ranges=ranges_of,
    shell:
        "python -m dml.stages.select --study {input.study:q} --dataset {wildcards.dataset} --method {wildcards.method}"
        " --history {input.history:q} --settings {input.settings:q} --folds {input.folds:q} --output {output.best:q} --output-trial {output.trial:q} --output-history {output.history:q}"
        " 2> {log:q}"


if GIVEN is None:

    ruleorder: select > take
    ruleorder: select > cite

else:

    ruleorder: take > select
    ruleorder: cite > select
