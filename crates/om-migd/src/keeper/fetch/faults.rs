//! The memory of a restored task through its userfaultfd (userfaultfd(2), ioctl_userfaultfd(2)).
#![expect(unsafe_code, reason = "ioctls without a safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

/// `UFFD_EVENT_PAGEFAULT`.
const PAGE_FAULT: u8 = 0x12;

#[repr(C)]
struct Copy {
    to: u64,
    from: u64,
    length: u64,
    mode: u64,
    copied: i64,
}

#[repr(C)]
struct Zero {
    start: u64,
    length: u64,
    mode: u64,
    zeroed: i64,
}

nix::ioctl_readwrite!(copy, 0xaa, 0x03, Copy);
nix::ioctl_readwrite!(zero, 0xaa, 0x04, Zero);

/// One task's userfaultfd.
#[derive(Debug)]
pub struct Faults {
    descriptor: OwnedFd,
    page: u64,
}

/// What the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Somebody waits for what is at this address.
    Fault(u64),
    /// The task changes its memory.
    Change,
}

impl Faults {
    /// The one that a restore has handed over, which does not block. `page` is the size of a page in bytes.
    #[must_use]
    pub fn new(descriptor: OwnedFd, page: u64) -> Self {
        Self { descriptor, page }
    }

    /// What there is to hear of now.
    pub fn hear(&self) -> io::Result<Option<News>> {
        let mut message = [0_u8; 32];
        match nix::unistd::read(&self.descriptor, &mut message) {
            Ok(32) => {}
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => return Err(error.into()),
        }
        let [kind, ..] = message;
        let address = u64::from_ne_bytes(message[16..24].try_into().unwrap_or_default());
        Ok(Some(if kind == PAGE_FAULT { News::Fault(address) } else { News::Change }))
    }

    /// Fills whole pages, and wakes who waits for them. What is there already stays, and is an error: it is not the job's.
    pub fn fill(&self, mut address: u64, mut bytes: &[u8]) -> io::Result<()> {
        let mut step = bytes.len() as u64;
        while !bytes.is_empty() {
            let length = step.min(bytes.len() as u64);
            let from = bytes.as_ptr() as u64;
            let mut call = Copy { to: address, from, length, mode: 0, copied: 0 };
            // SAFETY: the kernel reads `length` bytes of `bytes`, which has that many, and writes to `call` only.
            let result = unsafe { copy(self.descriptor.as_raw_fd(), &raw mut call) };
            let done = match (result, u64::try_from(call.copied)) {
                (Ok(_), _) => length,
                (Err(Errno::EAGAIN), Ok(copied)) if copied > 0 => copied,
                // The task's memory is being changed: whoever hears of it must do so first.
                (Err(Errno::EAGAIN), _) => {
                    std::thread::yield_now();
                    0
                }
                // One call must not go beyond one mapping.
                (Err(Errno::ENOENT), _) if length > self.page => {
                    step = (length / 2).next_multiple_of(self.page);
                    continue;
                }
                (Err(error), _) => return Err(error.into()),
            };
            step = step.saturating_mul(2);
            address += done;
            bytes = bytes.get(usize::try_from(done).unwrap_or(usize::MAX)..).unwrap_or_default();
        }
        Ok(())
    }

    /// Fills the page around this address with zeros, if nothing is there.
    pub fn fill_with_zeros(&self, address: u64) -> io::Result<()> {
        let start = address - address % self.page;
        let mut call = Zero { start, length: self.page, mode: 0, zeroed: 0 };
        // SAFETY: the kernel writes to `call` only.
        match unsafe { zero(self.descriptor.as_raw_fd(), &raw mut call) } {
            Ok(_) | Err(Errno::EEXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Faults {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Default)]
    struct Api {
        api: u64,
        features: u64,
        calls: u64,
    }

    #[repr(C)]
    struct Register {
        start: u64,
        length: u64,
        mode: u64,
        calls: u64,
    }

    nix::ioctl_readwrite!(api, 0xaa, 0x3f, Api);
    nix::ioctl_readwrite!(register, 0xaa, 0x00, Register);

    /// Empty memory of this process, two mappings next to each other, that somebody else has to fill.
    pub struct Memory {
        at: *const u8,
        length: usize,
    }

    // SAFETY: it is only read, and stays for good.
    unsafe impl Sync for Memory {}

    impl Memory {
        pub fn new(pages: usize) -> (Self, OwnedFd) {
            let page = usize::try_from(crate::inspect::page_size()).unwrap();
            let length = pages * page;
            // SAFETY: new memory; a userfaultfd of this process only, and calls that write to their arguments.
            unsafe {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                let at = libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, flags, -1, 0);
                assert_ne!(at, libc::MAP_FAILED);
                let writable = libc::PROT_READ | libc::PROT_WRITE;
                assert_eq!(libc::mprotect(at, pages / 2 * page, writable), 0);
                const USER_MODE_ONLY: i32 = 1;
                let mode = libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY;
                let fd = libc::syscall(libc::SYS_userfaultfd, mode);
                let fd = crate::sys::inherited(fd.try_into().unwrap());
                assert!(fd.as_raw_fd() >= 0, "this kernel has no userfaultfd");
                let mut hello = Api { api: 0xaa, ..Api::default() };
                api(fd.as_raw_fd(), &raw mut hello).unwrap();
                let start = at as u64;
                let mut all = Register { start, length: length as u64, mode: 1, calls: 0 };
                register(fd.as_raw_fd(), &raw mut all).unwrap();
                (Self { at: at.cast(), length }, fd)
            }
        }

        pub fn address(&self) -> u64 {
            self.at as u64
        }

        /// Waits until what it reads has been filled.
        pub fn read(&self) -> &[u8] {
            // SAFETY: mapped for good, and nobody writes to what has been filled.
            unsafe { std::slice::from_raw_parts(self.at, self.length) }
        }
    }

    #[test]
    fn memory_is_filled_beyond_one_mapping_and_what_is_there_stays() {
        let page = crate::inspect::page_size();
        let (memory, descriptor) = Memory::new(10);
        let faults = Faults::new(descriptor, page);
        let bytes: Vec<u8> =
            (1..=10).flat_map(|n| std::iter::repeat_n(n, page.try_into().unwrap())).collect();
        faults.fill_with_zeros(memory.address() + 2 * page + 17).unwrap();
        faults.fill_with_zeros(memory.address() + 2 * page).unwrap();
        // It gets no further than to what is there.
        assert!(faults.fill(memory.address(), &bytes).is_err());
        let rest = &bytes[usize::try_from(3 * page).unwrap()..];
        faults.fill(memory.address() + 3 * page, rest).unwrap();
        let filled: Vec<u8> = memory.read().iter().step_by(page.try_into().unwrap()).copied().collect();
        assert_eq!(filled, [1, 2, 0, 4, 5, 6, 7, 8, 9, 10]);
        assert!(faults.fill(page, &bytes[..16]).is_err(), "nothing is mapped there");
    }
}
