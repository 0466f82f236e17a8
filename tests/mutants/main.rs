//! Each fix that the promises rest on is undone, and a test must notice.
//!
//! `./dev test` checks that every mutant still fits the sources. `./dev soak mutants` makes each in a
//! copy of the last commit, builds it, and runs the tests that must fail. A mutant that does not build
//! proves nothing and is an error too.

mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use table::{Edit, MUTANTS, Mutant};
use tests::Rounds;

fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package
        .parent()
        .expect("a package in the workspace")
        .to_owned()
}

fn read(tree: &Path, edit: &Edit) -> String {
    let text = std::fs::read_to_string(tree.join(edit.file));
    text.unwrap_or_else(|error| panic!("{}: {error}", edit.file))
}

#[test]
fn every_mutant_fits_the_sources() {
    for mutant in MUTANTS {
        for edit in mutant.edits {
            let found = read(&root(), edit).matches(edit.old).count();
            assert_eq!(found, 1, "{}: in {}", mutant.name, edit.file);
            assert_ne!(edit.old, edit.new, "{}", mutant.name);
        }
    }
}

/// A copy of the last commit, with a folder for what is built of it.
struct Copy {
    tree: PathBuf,
    target: PathBuf,
}

impl Copy {
    fn of_the_last_commit() -> Self {
        let folder = root().join("target/mutants");
        let copy = Self {
            tree: folder.join("tree"),
            target: folder.join("target"),
        };
        std::fs::create_dir_all(&copy.tree).expect("a folder can be made");
        let mut archive = Command::new("git")
            .args(["archive", "HEAD"])
            .current_dir(root())
            .stdout(Stdio::piped())
            .spawn()
            .expect("git is there");
        let commit = archive.stdout.take().expect("it is piped");
        // All as new: times of the commit could lie before what was built of another one.
        let unpacked = Command::new("tar")
            .arg("-xm")
            .current_dir(&copy.tree)
            .stdin(commit)
            .status();
        assert!(unpacked.expect("tar is there").success());
        assert!(archive.wait().expect("git ends").success());
        copy
    }

    fn write(&self, edit: &Edit, text: &str) {
        let written = std::fs::write(self.tree.join(edit.file), text);
        written.expect("the copy is ours");
    }

    fn cargo(&self, arguments: &[&str]) -> bool {
        let status = Command::new("cargo")
            .args(arguments)
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.target)
            .env_remove("NATTER_SOAK_DIR")
            .status();
        status.expect("cargo is there").success()
    }

    /// Whether the tests notice; the mutant is taken out again.
    fn is_noticed(&self, mutant: &Mutant) -> bool {
        let whole: Vec<(&Edit, String)> = mutant
            .edits
            .iter()
            .map(|edit| (edit, read(&self.tree, edit)))
            .collect();
        for (edit, text) in &whole {
            self.write(edit, &text.replacen(edit.old, edit.new, 1));
        }
        let (kind, filters) = match mutant.noticed_by {
            [kind @ "--lib", filters @ ..] => (vec![*kind], filters),
            [kind @ ("--test" | "--bin"), name, filters @ ..] => (vec![*kind, *name], filters),
            other => panic!("{other:?} are no arguments of a mutant"),
        };
        let test = [&["test", "--package", mutant.package], &kind[..]].concat();
        let builds = self.cargo(&["build", "--package", "natter"])
            && self.cargo(&[&test[..], &["--no-run"]].concat());
        let passes = builds && self.cargo(&[&test[..], &["--"], filters].concat());
        for (edit, text) in &whole {
            self.write(edit, text);
        }
        assert!(builds, "{} does not build", mutant.name);
        !passes
    }
}

#[test]
fn soak_every_mutant_is_noticed() {
    if !tests::is_soak() {
        return;
    }
    let copy = Copy::of_the_last_commit();
    let count = u64::try_from(MUTANTS.len()).expect("a handful");
    let mut survivors = Vec::new();
    for round in Rounds::of("mutants", 0, count) {
        let mutant = &MUTANTS[usize::try_from(round).expect("a handful")];
        if copy.is_noticed(mutant) {
            println!("NOTICED {}", mutant.name);
        } else {
            println!("SURVIVES {}", mutant.name);
            survivors.push(mutant.name);
        }
    }
    assert!(survivors.is_empty(), "no test notices {survivors:?}");
}
