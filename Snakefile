# Every row of every table as a target: snakemake --cores 2 quick, or one row: results/mnist/linf-dist-net/laptop-0.json
#
# A row is an executed notebook, which trains and evaluates in runs/, and the record that it leaves, copied to results/.
# Finished rows, those of this book too, are not run again (-d DIR makes all of them, in DIR); a row that was stopped
# goes on from its last checkpoint. Those are written every quarter of a minute, or as often as takes a fiftieth of the
# time: every few minutes at the paper's widths.
#
# --config recipes=mnist/linf-dist-net,cifar10/linf-dist-net seeds=0,1,2 data_root=DIR device=cpu threads=2

import sys

from lib.experiments import sweep
from lib.recipes import BUDGETS

PLAN = sweep.configured(config)  # refused here, before any job, where something is wrong in it
MINUTES = {"smoke": 10, "quick": 15, "laptop": 60, "gpu": 60, "paper": 2880}


def records(budget):
    return [f"results/{row}.json" for row in PLAN.rows(budget)]


wildcard_constraints:
    recipe="|".join(PLAN.recipes),
    budget="|".join(BUDGETS),
    seed=r"\d+",


localrules: smoke, quick, laptop, gpu, paper


rule quick:
    input: records("quick")


rule smoke:
    input: records("smoke")


rule laptop:
    input: records("laptop")


rule gpu:
    input: records("gpu")


rule paper:
    input: records("paper")


rule row:
    output:
        notebook="runs/{recipe}/{budget}-{seed}.ipynb",
        table="results/{recipe}/{budget}-{seed}.npz",
        record="results/{recipe}/{budget}-{seed}.json",
    params:
        python=sys.executable,
        chapter=lambda wildcards: sweep.chapter(wildcards.recipe),
        arguments=lambda wildcards: PLAN.arguments(wildcards.recipe, wildcards.budget, wildcards.seed),
        made="runs/{recipe}/{budget}-{seed}",
    threads: PLAN.threads
    resources:
        runtime=lambda wildcards: MINUTES[wildcards.budget],
        gpu=lambda wildcards: int(wildcards.budget in ("gpu", "paper") and PLAN.device != "cpu"),
    shell:
        "NUMBA_NUM_THREADS={threads} {params.python:q} -m papermill --no-progress-bar "
        "{params.chapter:q} {output.notebook:q} {params.arguments} && "
        "cp {params.made}.npz {output.table} && cp {params.made}.json {output.record}"
