//! What is left on a disk after a power loss: of every file only what was synced.
//!
//! Read from strace's notes of the calls by which a process writes. A sync covers what was written before
//! it began. Data only: that the file system keeps names and lengths of synced files is taken for
//! granted, and what was overwritten in place would be kept though it was not synced; JetStream appends.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

/// The calls that must be traced.
pub(crate) const CALLS: &str =
    "trace=openat,renameat,renameat2,pwrite64,write,fsync,fdatasync,ftruncate";

/// One file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Extent {
    size: u64,
    synced: u64,
    /// Every write is synced before it ends (`O_SYNC`).
    at_once: bool,
}

/// Files as they were written.
#[derive(Debug, Default)]
pub(crate) struct Image {
    files: BTreeMap<PathBuf, Extent>,
    /// Of each thread the call that it is in, and how long the file was when it began.
    begun: BTreeMap<u32, (String, u64)>,
}

impl Image {
    /// Reads strace's notes, made with `-f -y -s 0` and [`CALLS`].
    pub(crate) fn of(notes: &str) -> Self {
        let mut image = Self::default();
        for line in notes.lines() {
            image.note(line);
        }
        image
    }

    /// Whether the notes are complete: this process was killed.
    pub(crate) fn is_of_killed(notes: &str, pid: u32) -> bool {
        let pid = pid.to_string();
        let ends = |line: &str| {
            let (of, what) = line.split_once(' ').unwrap_or((line, ""));
            of == pid && what.trim_start() == "+++ killed by SIGKILL +++"
        };
        notes.lines().any(ends)
    }

    /// Cuts the files below a folder back to what was synced; returns how many bytes are lost.
    pub(crate) fn power_is_lost(&self, below: &Path) -> u64 {
        let mut lost = 0;
        for (path, extent) in &self.files {
            let Ok(found) = std::fs::metadata(path) else {
                continue;
            };
            if !path.starts_with(below) || !found.is_file() || found.len() <= extent.synced {
                continue;
            }
            lost += found.len() - extent.synced;
            let file = OpenOptions::new().write(true).open(path);
            let cut = file.and_then(|file| file.set_len(extent.synced));
            cut.expect("the broker's files are ours");
        }
        lost
    }

    fn note(&mut self, line: &str) {
        let Some((pid, call)) = line.split_once(' ') else {
            return;
        };
        let Ok(pid) = pid.parse::<u32>() else { return };
        let call = call.trim_start();
        if let Some(begin) = call.strip_suffix(" <unfinished ...>") {
            let size = self.size_at(begin);
            self.begun.insert(pid, (begin.to_owned(), size));
        } else if let Some(rest) = call.strip_prefix("<... ") {
            let end = rest.split_once(" resumed>").map(|(_, end)| end);
            if let (Some(end), Some((begin, size))) = (end, self.begun.remove(&pid)) {
                self.ended(&format!("{begin}{end}"), size);
            }
        } else {
            let size = self.size_at(call);
            self.ended(call, size);
        }
    }

    /// How long the file is that a call is about.
    fn size_at(&self, call: &str) -> u64 {
        let extent = path_of(call).and_then(|path| self.files.get(&path));
        extent.map_or(0, |extent| extent.size)
    }

    /// A call has ended that began when its file had `size`.
    fn ended(&mut self, call: &str, size: u64) {
        let Some((name, rest)) = call.split_once('(') else {
            return;
        };
        let Some((arguments, result)) = rest.rsplit_once(" = ") else {
            return;
        };
        let Some(result) = result.split([' ', '<']).next() else {
            return;
        };
        let Ok(result) = result.parse::<u64>() else {
            return;
        };
        let arguments = arguments.trim_end().trim_end_matches(')');
        match name {
            "openat" => self.opened(arguments),
            "renameat" | "renameat2" => self.renamed(arguments),
            "pwrite64" => {
                let at = arguments.rsplit(", ").next();
                if let Some(at) = at.and_then(|at| at.parse::<u64>().ok()) {
                    self.written(call, at + result);
                }
            }
            "write" => self.written(call, size + result),
            "ftruncate" => {
                let to = arguments.rsplit(", ").next();
                if let (Some(path), Some(Ok(to))) = (path_of(call), to.map(str::parse)) {
                    let extent = self.files.entry(path).or_default();
                    (extent.size, extent.synced) = (to, extent.synced.min(to));
                }
            }
            "fsync" | "fdatasync" => {
                if let Some(extent) = path_of(call).and_then(|path| self.files.get_mut(&path)) {
                    extent.synced = extent.synced.max(size.min(extent.size));
                }
            }
            _ => {}
        }
    }

    fn opened(&mut self, arguments: &str) {
        let Some(path) = quoted(arguments).next() else {
            return;
        };
        let extent = self.files.entry(PathBuf::from(path)).or_default();
        extent.at_once = arguments.contains("O_SYNC") || arguments.contains("O_DSYNC");
        if arguments.contains("O_TRUNC") {
            (extent.size, extent.synced) = (0, 0);
        }
    }

    fn renamed(&mut self, arguments: &str) {
        let mut paths = quoted(arguments);
        if let (Some(from), Some(to)) = (paths.next(), paths.next())
            && let Some(extent) = self.files.remove(Path::new(from))
        {
            self.files.insert(PathBuf::from(to), extent);
        }
    }

    fn written(&mut self, call: &str, end: u64) {
        let Some(path) = path_of(call) else { return };
        let extent = self.files.entry(path).or_default();
        extent.size = extent.size.max(end);
        if extent.at_once {
            extent.synced = extent.size;
        }
    }
}

/// The path of the descriptor that a call is about: `fsync(9</a/b>)`.
fn path_of(call: &str) -> Option<PathBuf> {
    let (_, rest) = call.split_once('<')?;
    let (path, _) = rest.split_once('>')?;
    path.starts_with('/').then(|| PathBuf::from(path))
}

fn quoted(arguments: &str) -> impl Iterator<Item = &str> {
    arguments.split('"').skip(1).step_by(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(notes: &str, path: &str) -> (u64, u64) {
        let image = Image::of(notes);
        let extent = image.files[Path::new(path)];
        (extent.size, extent.synced)
    }

    #[test]
    fn a_sync_covers_what_was_written_before_it_began() {
        let notes = "1 pwrite64(9</s/1.blk>, \"\"..., 133, 0) = 133\n\
            1 fsync(9</s/1.blk> <unfinished ...>\n\
            2 pwrite64(9</s/1.blk>, \"\"..., 7, 133) = 7\n\
            1 <... fsync resumed>)              = 0\n";
        assert_eq!(extent(notes, "/s/1.blk"), (140, 133));
        let more = format!("{notes}2 fsync(9</s/1.blk>) = 0\n");
        assert_eq!(extent(&more, "/s/1.blk"), (140, 140));
    }

    #[test]
    fn a_sync_that_failed_or_never_ended_covers_nothing() {
        let written = "1 write(9</s/a>, \"\"..., 5) = 5\n1 write(9</s/a>, \"\"..., 5) = 5\n";
        for sync in [
            "",
            "1 fsync(9</s/a>) = -1 EIO (Input/output error) (INJECTED)\n",
            "1 fsync(9</s/a> <unfinished ...>\n",
        ] {
            assert_eq!(
                extent(&format!("{written}{sync}"), "/s/a"),
                (10, 0),
                "{sync}"
            );
        }
    }

    #[test]
    fn what_is_written_through_is_synced_and_a_renamed_file_is_the_same() {
        let notes = "1 openat(AT_FDCWD</s>, \"/s/m.tmp\", O_WRONLY|O_CREAT|O_TRUNC|O_SYNC, 0600) = 11</s/m.tmp>\n\
            1 write(11</s/m.tmp>, \"\"..., 507) = 507\n\
            1 renameat(AT_FDCWD</s>, \"/s/m.tmp\", AT_FDCWD</s>, \"/s/m\") = 0\n";
        assert_eq!(extent(notes, "/s/m"), (507, 507));
    }
}
