#!/usr/bin/env bash
# The comparison of docs/results.md: mentors, then two students by every method, with the CLI alone.
# About five hours on one core. $CLASSROOMKD_DATA is the folder above cifar100 (else: download).
set -euo pipefail
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
short=train.epochs=5

mentor() { classroomkd train cifar100-mentor "name=cifar100-$1" "student.model=$1" "${@:2}"; }
mentor resnet8 $short
mentor resnet14 $short
mentor MobileNetV2 $short train.precision=fp32
mentor resnet32 train.epochs=8

alone() { # student, seed
  classroomkd train cifar100-mentor "name=cifar100-$1-none-$2" "student.model=$1" "seed=$2" $short
}
taught() { # student, label, seed, options of the method
  classroomkd train cifar100-classroom "name=cifar100-$1-$2-$3" "student.model=$1" "seed=$3" $short "${@:4}"
}
methods() { # student, seed
  taught "$1" kd "$2" method.name=kd
  taught "$1" aver-mean "$2" method.name=aver
  taught "$1" aver-sum "$2" method.name=aver method.reduction=sum
  taught "$1" classroom-1 "$2" method.task_weight=1
  taught "$1" classroom-own "$2" method.task_weight=student
  taught "$1" classroom-official "$2" method.task_weight=student method.compat=official
}
for student in resnet8 resnet20; do
  alone "$student" 0
  methods "$student" 0
done
for seed in 1 2; do
  alone resnet20 "$seed"
  taught resnet20 aver-mean "$seed" method.name=aver
  taught resnet20 classroom-1 "$seed" method.task_weight=1
done
classroomkd report runs/cifar100-resnet{8,20}-* --out runs/cifar100.html
