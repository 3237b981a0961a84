#!/bin/sh
# From scenes to a report, without a network: two to five minutes on two cores, pictures at once.
#
#     sh examples/quickstart.sh [FOLDER]
#     SCENES=24 LABELLED=16 DRAWS=32 sh examples/quickstart.sh    # does it run? nothing is learnt
#
# Every step is a command for your own data too; `scaleevent COMMAND --help` tells its options.
set -eu
out=${1:-quickstart}
scenes=${SCENES:-300}
labelled=${LABELLED:-150}
draws=${DRAWS:-640}
here=$(dirname "$0")

mkdir -p "$out"

# what the small model in the package sees along a recording of the street; any recording will do
python "$here/street_recording.py" "$out/recording.npz"
scaleevent predict embedded-event "$out/recording.npz" --rate 20 -o "$out/first"

# pairs of a picture and the events before it: embedded scenes to learn from, others with labels
scaleevent prepare street --scenes "$scenes" --seed 0 -o "$out/pairs"
scaleevent prepare street --scenes "$labelled" --seed 1 -o "$out/labelled"

# an event encoder, taught by an image encoder without any label (half the usual length)
scaleevent pretrain "$out/pairs" --preset demo --draws "$draws" -o "$out/encoder"

# a linear head on its frozen features: which class is where? scored on scenes never seen
scaleevent probe street-semantic "$out/encoder" --data "$out/labelled" -o "$out/classes"
scaleevent eval street-semantic "$out/classes" --data "$out/labelled" -o "$out/score"

# files for other programs, each checked against the model
scaleevent export "$out/classes" --format onnx -o "$out/deploy"

# what your own encoder and head see along it: classes, and features as colours
scaleevent predict "$out/classes" "$out/recording.npz" --rate 20 -o "$out/seen"
scaleevent predict "$out/encoder" "$out/recording.npz" --rate 20 -o "$out/features"

# all of it on one page
scaleevent report "$out/encoder" "$out/classes" "$out/score" "$out/deploy" "$out/seen" \
    -o "$out/report.html"
echo "open $out/report.html in a browser; pictures are in $out/seen/pictures"
