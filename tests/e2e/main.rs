//! Stories that a user, an operator or an attacker would tell, each on servers of its own.

mod dev;
