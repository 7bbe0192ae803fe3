//! Local control protocol between `om run` and `om-migd`.
