//! The images of a job's threads, before CRIU makes the threads of them: what they must not have here is taken out.
//!
//! That is of every job the groups, which are this node's to give ([`crate::guest_groups`]), and of a guest all that would put
//! it before the node's own work: real-time scheduling, a nice value or an OOM score below 0, the limits that allow them. A
//! user could get there at home by the rules of that node; here those of this node hold. Nothing else of the images is
//! understood, let alone changed.
//!
//! This is no check: what cannot be read is left as it is, and [`super::customs`] looks at what has become of it.
//!
//! A `core-N.img` is eight bytes of magic numbers, a length, and a protobuf message. The fields are those of
//! `core.proto`, `creds.proto` and `rlimit.proto` in CRIU.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use crate::limits;
use crate::protobuf::{Value, put_bytes, put_number, take_field};

/// Magic numbers and length.
const HEADER: usize = 12;
/// More no thread has to say.
const MOST: u64 = 1 << 20;

/// `core_entry`.
const TASK: u64 = 3;
const THREAD: u64 = 5;
/// `task_core_entry`.
const LIMITS: u64 = 8;
const OOM_SCORE: u64 = 14;
/// `task_rlimits_entry`, and one of its entries.
const LIMIT: u64 = 1;
const SOFT: u64 = 1;
const HARD: u64 = 2;
/// `thread_core_entry`.
const NICE: u64 = 3;
const POLICY: u64 = 4;
const PRIORITY: u64 = 5;
const CREDENTIALS: u64 = 10;
/// `creds_entry`.
const GROUPS: u64 = 14;

/// What a job may have here.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Its supplementary groups.
    pub groups: &'a [u32],
    /// Whether it is a guest.
    pub guest: bool,
}

impl Terms<'_> {
    /// Writes them into the images in this directory.
    pub fn impose(self, images: &OwnedFd) -> io::Result<()> {
        for entry in fs::read_dir(PathBuf::from(format!("/proc/self/fd/{}", images.as_raw_fd())))? {
            let entry = entry?;
            let name = entry.file_name();
            let is_core =
                name.to_str().is_some_and(|name| name.starts_with("core-") && name.ends_with(".img"));
            if !is_core || entry.metadata()?.len() > MOST {
                continue;
            }
            let image = fs::read(entry.path())?;
            if let Some(amended) = self.amend(&image).filter(|amended| *amended != image) {
                fs::write(entry.path(), amended)?;
            }
        }
        Ok(())
    }

    /// The image as it may be; none if it is no such image.
    #[must_use]
    pub fn amend(self, image: &[u8]) -> Option<Vec<u8>> {
        let (header, message) = image.split_at_checked(HEADER)?;
        let (magic, length) = header.split_at_checked(HEADER - 4)?;
        if usize::try_from(u32::from_le_bytes(length.try_into().ok()?)) != Ok(message.len()) {
            return None;
        }
        let amended = rewrite(message, |number, value| match (number, value) {
            (TASK, Value::Bytes(task)) if self.guest => Some(Change::Bytes(task_of_guest(task)?)),
            (THREAD, Value::Bytes(thread)) => Some(Change::Bytes(self.thread(thread)?)),
            _ => Some(Change::Keep),
        })?;
        let length = u32::try_from(amended.len()).ok()?.to_le_bytes();
        Some([magic, &length, &amended].concat())
    }

    fn thread(self, thread: &[u8]) -> Option<Vec<u8>> {
        let mut is_real_time = false;
        rewrite(thread, |number, value| match (number, value) {
            (POLICY, Value::Number(policy)) => {
                is_real_time = self.guest && limits::is_real_time(policy);
                Some(if is_real_time { Change::Number(0) } else { Change::Keep })
            }
            (PRIORITY, _) if is_real_time => Some(Change::Drop),
            // In zigzag what is below 0 is odd.
            (NICE, Value::Number(nice)) if self.guest && nice % 2 == 1 => Some(Change::Number(0)),
            (CREDENTIALS, Value::Bytes(credentials)) => Some(Change::Bytes(self.credentials(credentials)?)),
            _ => Some(Change::Keep),
        })
    }

    fn credentials(self, credentials: &[u8]) -> Option<Vec<u8>> {
        let mut own = rewrite(credentials, |number, _| {
            Some(if number == GROUPS { Change::Drop } else { Change::Keep })
        })?;
        for group in self.groups {
            put_number(&mut own, GROUPS, (*group).into());
        }
        Some(own)
    }
}

fn task_of_guest(task: &[u8]) -> Option<Vec<u8>> {
    rewrite(task, |number, value| match (number, value) {
        (LIMITS, Value::Bytes(limits)) => Some(Change::Bytes(limits_of_guest(limits)?)),
        // What is below 0 has the highest of 64 bits.
        (OOM_SCORE, Value::Number(score)) if score.cast_signed() < 0 => Some(Change::Number(0)),
        _ => Some(Change::Keep),
    })
}

fn limits_of_guest(limits: &[u8]) -> Option<Vec<u8>> {
    // In the order of the kernel's numbers.
    let mut resource = 0;
    rewrite(limits, |number, value| match (number, value) {
        (LIMIT, Value::Bytes(limit)) => {
            let most = limits::most_of_guest(resource);
            resource += 1;
            let Some(most) = most else { return Some(Change::Keep) };
            Some(Change::Bytes(rewrite(limit, |number, value| match (number, value) {
                (SOFT | HARD, Value::Number(limit)) if limit > most => Some(Change::Number(most)),
                _ => Some(Change::Keep),
            })?))
        }
        _ => Some(Change::Keep),
    })
}

/// What becomes of a field.
enum Change {
    Keep,
    Drop,
    Number(u64),
    Bytes(Vec<u8>),
}

/// A message with its fields changed, each by its number and value; none if it is no message, or `change` says so.
fn rewrite(message: &[u8], mut change: impl FnMut(u64, Value<'_>) -> Option<Change>) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(message.len());
    let mut rest = message;
    while !rest.is_empty() {
        let field = rest;
        let (number, value) = take_field(&mut rest)?;
        match change(number, value)? {
            Change::Keep => out.extend_from_slice(field.get(..field.len() - rest.len())?),
            Change::Drop => {}
            Change::Number(value) => put_number(&mut out, number, value),
            Change::Bytes(body) => put_bytes(&mut out, number, &body),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(fields: &[(u64, Change)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, value) in fields {
            match value {
                Change::Number(value) => put_number(&mut out, *number, *value),
                Change::Bytes(body) => put_bytes(&mut out, *number, body),
                Change::Keep | Change::Drop => {}
            }
        }
        out
    }

    /// A thread as CRIU writes it: with this policy, nice value in zigzag, OOM score, limits and groups.
    fn image(policy: u64, nice: u64, score: i64, limit: u64, groups: &[u64]) -> Vec<u8> {
        image_with(policy, nice, score, &[limit; 16], groups)
    }

    fn image_with(policy: u64, nice: u64, score: i64, limits: &[u64], groups: &[u64]) -> Vec<u8> {
        use Change::{Bytes, Number};
        let mut credentials = vec![(1, Number(1000)), (2, Number(1000)), (15, Bytes(b"label".to_vec()))];
        credentials.extend(groups.iter().map(|group| (GROUPS, Number(*group))));
        let mut thread = vec![(1, Number(0)), (NICE, Number(nice)), (POLICY, Number(policy))];
        if policy == 1 {
            thread.push((PRIORITY, Number(50)));
        }
        thread.extend([(6, Number(u64::MAX)), (CREDENTIALS, Bytes(message(&credentials)))]);
        let limit = |limit: &u64| message(&[(SOFT, Number(*limit)), (HARD, Number(*limit))]);
        let limits: Vec<_> = limits.iter().map(|one| (LIMIT, Bytes(limit(one)))).collect();
        let task = [
            (6, Bytes(b"name".to_vec())),
            (LIMITS, Bytes(message(&limits))),
            (OOM_SCORE, Number(score.cast_unsigned())),
        ];
        let core =
            message(&[(1, Number(1)), (TASK, Bytes(message(&task))), (THREAD, Bytes(message(&thread)))]);
        let length = u32::try_from(core.len()).unwrap().to_le_bytes();
        [b"magicnrs".as_slice(), &length, &core].concat()
    }

    fn guest(groups: &[u32]) -> Terms<'_> {
        Terms { groups, guest: true }
    }

    #[test]
    fn a_guest_that_has_nothing_too_much_is_left_as_it_is() {
        // Only its limit of real-time priority is taken, which is one of 16.
        let image = image(0, 10, 300, 0, &[100, 1000]);
        assert_eq!(guest(&[100, 1000]).amend(&image), Some(image));
    }

    #[test]
    fn a_guest_is_not_put_before_the_nodes_own_work() {
        let fair = guest(&[]).amend(&image(1, 39, -1000, 99, &[])).unwrap();
        // The same with nothing of all this, but for the other 14 limits.
        let mut limits = vec![99; 16];
        limits[13] = 20;
        limits[14] = 0;
        assert_eq!(fair, image_with(0, 0, 0, &limits, &[]));
        let lower = image(0, 38, 500, 0, &[]);
        assert_eq!(guest(&[]).amend(&lower), Some(lower));
    }

    #[test]
    fn at_home_a_job_is_what_it_was_and_has_its_groups_again() {
        let home = Terms { groups: &[27, 100, 998], guest: false };
        let away = image(1, 39, -1000, 99, &[100]);
        assert_eq!(home.amend(&away), Some(image(1, 39, -1000, 99, &[27, 100, 998])));
    }

    #[test]
    fn what_is_no_image_is_not_changed() {
        let image = image(0, 0, 0, 0, &[27]);
        for length in 0..image.len() {
            assert_eq!(guest(&[]).amend(&image[..length]), None, "{length}");
        }
        let mut odd = image.clone();
        odd[HEADER] = 0x0f;
        assert_eq!(guest(&[]).amend(&odd), None);
    }

    #[test]
    fn images_in_a_directory_are_written_over_and_other_files_are_not() {
        let directory = std::env::temp_dir().join(format!("om-images-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let (all, few) = (image(0, 0, 0, 0, &[27, 100]), image(0, 0, 0, 0, &[100]));
        for name in ["core-1.img", "core-17.img", "files.img"] {
            fs::write(directory.join(name), &all).unwrap();
        }
        guest(&[100]).impose(&fs::File::open(&directory).unwrap().into()).unwrap();
        let [one, other, another] =
            ["core-1.img", "core-17.img", "files.img"].map(|name| fs::read(directory.join(name)).unwrap());
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!((one, other, another), (few.clone(), few, all));
    }
}
