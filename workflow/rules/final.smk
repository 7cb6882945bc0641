# The best trial again with every seed. Test pixels are read for a number by `embed` alone, and, where a study asks what
# choosing by the test would feign, by `selection`: both of finished models, and nothing is chosen by what they find.

SEED = f"{RUN}/seeds/{{seed}}"


rule train_final:
    input:
        study=ancient(str(STUDY_FILE)),
        trial=f"{RUN}/best_trial.yaml",
        folds=f"{RESULTS}/{{dataset}}/folds.csv",
        trainval=packed("trainval", ".sha256"),
        pixels=ancient(packed("trainval", ".pixels", ".npz")),
        weights=ancient(weights_file),
        teacher=teachers("{seed}"),
    output:
        models=[f"{SEED}/fold{fold}/model.safetensors" for fold in FOLDS_OF_A_JOB],
        records=[f"{SEED}/fold{fold}/record.json" for fold in FOLDS_OF_A_JOB],
        checkpoints=[f"{SEED}/fold{fold}/checkpoints.safetensors" for fold in FOLDS_OF_A_JOB if STUDY.checkpoints],
    log:
        f"{LOGS}/{{dataset}}/{{method}}/seeds/{{seed}}/train{OF_THE_FOLD}.log",
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
    params:
        fold=lambda wildcards, output: folds_of(output.models),
        trained=what_is_trained,
    shell:
        # exec: a signal to stop must reach the training itself
        "exec python -m dml.stages.train_final --study {input.study:q} --dataset {wildcards.dataset}"
        " --seed {wildcards.seed} --trial {input.trial:q} --trainval {input.trainval:q}"
        " --folds {input.folds:q} --weights {input.weights:q} --teacher {input.teacher:q} --device $DML_DEVICE --threads {threads}"
        " --fold {params.fold:q} --output {output.models:q} --output-checkpoints {output.checkpoints:q} 2> {log:q}"


rule embed:
    input:
        models=[f"{SEED}/fold{fold}/model.safetensors" for fold in range(PROTOCOL.folds)],
        records=[f"{SEED}/fold{fold}/record.json" for fold in range(PROTOCOL.folds)],
        test=packed("test", ".sha256"),
        pixels=ancient(packed("test", ".pixels", ".npz")),
    output:
        embeddings=[f"{SEED}/fold{fold}/embeddings.npy" for fold in range(PROTOCOL.folds)],
        made=[f"{SEED}/fold{fold}/embeddings.json" for fold in range(PROTOCOL.folds)],
        views=[f"{SEED}/fold{fold}/{view}.npy" for view in STUDY.views() for fold in range(PROTOCOL.folds)],
    log:
        f"{LOGS}/{{dataset}}/{{method}}/seeds/{{seed}}/embed.log",
    priority: 2  # before more is trained: then the states of what is trained go
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
    params:
        code=measured_by(embedding_code()),
        views=STUDY.views(),
    shell:
        # exec: see train_final
        "exec python -m dml.stages.embed --models {input.models:q} --test {input.test:q} --device $DML_DEVICE"
        " --threads {threads} --views {params.views:q} --output {output.embeddings:q} 2> {log:q}"


rule measure:
    input:
        study=ancient(str(STUDY_FILE)),
        embeddings=[f"{SEED}/fold{fold}/embeddings.npy" for fold in range(PROTOCOL.folds)],
        made=[f"{SEED}/fold{fold}/embeddings.json" for fold in range(PROTOCOL.folds)],
        views=[f"{SEED}/fold{fold}/{view}.npy" for view in STUDY.views() for fold in range(PROTOCOL.folds)],
        records=[f"{SEED}/fold{fold}/record.json" for fold in range(PROTOCOL.folds)],
        test=packed("test", ".sha256"),
        index=ancient(packed("test", ".npz")),
    output:
        metrics=f"{SEED}/metrics.json",
        queries=f"{SEED}/queries.npz",
    log:
        f"{LOGS}/{{dataset}}/{{method}}/seeds/{{seed}}/measure.log",
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=evaluation_code(),
        retrieval={name: way.model_dump(exclude={"title"}) for name, way in STUDY.retrieval.items()},
    shell:
        "exec python -m dml.stages.measure --study {input.study:q} --embeddings {input.embeddings:q} --test {input.test:q}"
        " --output {output.metrics:q} --output-queries {output.queries:q} 2> {log:q}"


# Of the training classes of each model; no test image is looked at.
rule space:
    input:
        models=[f"{SEED}/fold{fold}/model.safetensors" for fold in range(PROTOCOL.folds)],
        records=[f"{SEED}/fold{fold}/record.json" for fold in range(PROTOCOL.folds)],
        folds=f"{RESULTS}/{{dataset}}/folds.csv",
        trainval=packed("trainval", ".sha256"),
        pixels=ancient(packed("trainval", ".pixels", ".npz")),
    output:
        f"{SEED}/space.json",
    log:
        f"{LOGS}/{{dataset}}/{{method}}/seeds/{{seed}}/space.log",
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
    params:
        code=measured_by(space_code()),
    shell:
        "exec python -m dml.stages.space --models {input.models:q} --trainval {input.trainval:q} --folds {input.folds:q}"
        " --device $DML_DEVICE --threads {threads} --output {output:q} 2> {log:q}"


# Reads test pixels of models that are finished, like `embed`; nothing follows from it but a table of its own.
rule selection:
    input:
        models=[f"{SEED}/fold{fold}/model.safetensors" for fold in range(PROTOCOL.folds)],
        records=[f"{SEED}/fold{fold}/record.json" for fold in range(PROTOCOL.folds)],
        checkpoints=[f"{SEED}/fold{fold}/checkpoints.safetensors" for fold in range(PROTOCOL.folds)],
        test=packed("test", ".sha256"),
        pixels=ancient(packed("test", ".pixels", ".npz")),
    output:
        f"{SEED}/selection.json",
    log:
        f"{LOGS}/{{dataset}}/{{method}}/seeds/{{seed}}/selection.log",
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
    params:
        code=measured_by(evaluation_code()),
    shell:
        "exec python -m dml.stages.selection --checkpoints {input.checkpoints:q} --models {input.models:q}"
        " --test {input.test:q} --device $DML_DEVICE --threads {threads} --output {output:q} 2> {log:q}"
