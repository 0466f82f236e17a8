//! The simulator: the real cores under crashes, rival writers, lost and late answers.
