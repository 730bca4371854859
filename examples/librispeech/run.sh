#!/usr/bin/env bash
# MT4SSL on LibriSpeech, 960 hours: manifests, two target iterations, pre-training, four fine-tunings, decoding.
#
#   ROOT=LibriSpeech FINETUNING=librispeech_finetuning GPUS=8 bash examples/librispeech/run.sh [STAGE …]
#
# Stages, all of them in this order if none is named: data targets1 pretrain1 targets2 pretrain2 text finetune decode.
# Run again, it does only what is not done yet, and goes on with what was stopped. DRY=1 prints the commands.
set -euo pipefail

# --- settings, each of which the environment can give ----------------------------------------------------------
: "${ROOT:=LibriSpeech}"                         # holds train-clean-100/ … test-other/
: "${FINETUNING:=librispeech_finetuning}"        # Libri-light's 1h/ and 9h/
: "${OUT:=runs/librispeech}"                     # everything goes here
: "${GPUS:=8}"                                   # 1, 2, 4, 8 or 16; the batch stays the same
: "${LM:=}"                                      # 4-gram.arpa or its KenLM binary; empty: greedy decoding only
: "${VOCAB:=}"                                   # the words of the language model, one a line; empty: those of train
: "${SUBSETS:=10m 1h 10h 100h}"                  # to fine-tune on
: "${FIRST_CLUSTERS:=100}"                       # of MFCCs
: "${FIRST_UPDATES:=250000}"                     # of the first model, which only makes the second targets
: "${LAYER:=6}"                                  # of the first model, for the second targets
: "${CLUSTERS:=500}"                             # of that layer
: "${TRAIN_OPTIONS:=}"                           # further settings of every training, as common.bf16=true
: "${TARGET_OPTIONS:=}"                          # further options of mtssl make-targets, as --sample-frames 1000000
: "${DRY:=}"

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
DATA="$OUT/data"
SPLITS="train_clean_100,train_10h,train_1h,train_10m,dev_clean,dev_other,test_clean,test_other"

case "$GPUS" in
    1 | 2 | 4 | 8 | 16) ;;
    *) echo "run.sh: GPUS is $GPUS, wanted 1, 2, 4, 8 or 16" >&2; exit 2 ;;
esac
TUNE_GPUS=$((GPUS < 8 ? GPUS : 8))               # a fine-tuning's batch is 8 parts, a pre-training's 16

# --- how stages are run ----------------------------------------------------------------------------------------

run() {  # PRODUCT COMMAND…: unless the product is there
    local product="$1"
    shift
    if [[ -z "$DRY" && -e "$product" ]]; then
        echo "have $product"
        return
    fi
    printf '%q ' "$@"
    printf '\n'
    [[ -n "$DRY" ]] || "$@"
}

train() {  # NAME PROCESSES SETTING…: fairseq goes on from checkpoint_last.pt by itself; a stamp says it has ended
    local folder="$OUT/$1" processes="$2"
    shift 2
    # shellcheck disable=SC2086  # several settings in one variable
    run "$folder/.done" fairseq-hydra-train "$@" checkpoint.save_dir="$folder" common.fp16=true \
        distributed_training.distributed_world_size="$processes" $TRAIN_OPTIONS
    [[ -n "$DRY" ]] || touch "$folder/.done"
}

make_targets() {  # FEATURES CLUSTERS FOLDER: goes on where it was by itself, and writes targets.json last
    # shellcheck disable=SC2086
    run "$3/targets.json" mtssl make-targets --data "$DATA" --splits train,valid --features "$1" --clusters "$2" \
        --out "$3" $TARGET_OPTIONS
}

# --- stages ----------------------------------------------------------------------------------------------------

data() {
    run "$DATA/corpus.json" python "$HERE/manifests/librispeech.py" --root "$ROOT" --finetuning "$FINETUNING" \
        --out "$DATA"
}

targets1() { make_targets mfcc "$FIRST_CLUSTERS" "$OUT/labels1"; }

pretrain() {  # NAME LABELS SETTING…
    local name="$1" labels="$2"
    shift 2
    train "$name" "$GPUS" --config-name mt4ssl task.data="$DATA" "task.labels=[$labels]" \
        "optimization.update_freq=[$((16 / GPUS))]" "$@"
}

pretrain1() { pretrain first "$OUT/labels1" optimization.max_update="$FIRST_UPDATES"; }

targets2() { make_targets "$OUT/first/checkpoint_last.pt:$LAYER" "$CLUSTERS" "$OUT/labels2"; }

pretrain2() { pretrain mt4ssl "$OUT/labels2"; }

text() {
    run "$DATA/dict.ltr.txt" mtssl prepare-text --data "$DATA" --splits "$SPLITS" --train train_clean_100 \
        --units letters ${VOCAB:+--words "$VOCAB"}
}

finetune() {
    local subset split
    for subset in $SUBSETS; do
        split="train_$subset"
        [[ "$subset" != 100h ]] || split=train_clean_100
        train "ctc_$subset" "$TUNE_GPUS" --config-name "ctc_$subset" task.data="$DATA" \
            model.pretrained="$OUT/mt4ssl/checkpoint_last.pt" dataset.train_subset="$split" \
            dataset.valid_subset=dev_other "optimization.update_freq=[$((8 / TUNE_GPUS))]"
    done
}

decode() {
    local subset split wer words
    for subset in $SUBSETS; do
        for split in dev_clean dev_other test_clean test_other; do
            wer="$OUT/wer/$subset.$split"
            words=(--checkpoint "$OUT/ctc_$subset/checkpoint_best.pt" --data "$DATA" --split "$split")
            run "$wer.greedy.json" mtssl transcribe "${words[@]}" --json "$wer.greedy.json"
            [[ -n "$LM" ]] || continue
            run "$wer.lm.json" mtssl transcribe "${words[@]}" --lm "$LM" --lexicon "$DATA/lexicon.ltr.lst" \
                --beam 1500 --lm-weight 2 --word-score -1 --json "$wer.lm.json"
        done
    done
}

STAGES=(data targets1 pretrain1 targets2 pretrain2 text finetune decode)
for stage in "${@:-${STAGES[@]}}"; do
    if [[ " ${STAGES[*]} " != *" $stage "* ]]; then
        echo "run.sh: got stage $stage, wanted some of: ${STAGES[*]}" >&2
        exit 2
    fi
    echo "# $stage"
    "$stage"
done
