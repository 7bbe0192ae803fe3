//! Which operation is executed where.

use nix::errno::Errno;

use crate::abi::{self, init};
use crate::reply::Reply;
use crate::request::{Operation, Request};

use super::session::Session;

/// What the server wants of the kernel; it gets what the kernel has.
///
/// Not wanted: a write-back cache (home must see what was written), POSIX_ACL and default permissions (home's
/// kernel decides, by the real file's owner, mode and ACL), EXPORT_SUPPORT.
const WANTED: u32 = init::ASYNC_READ
    | init::POSIX_LOCKS
    | init::ATOMIC_O_TRUNC
    | init::BIG_WRITES
    | init::DONT_MASK
    | init::FLOCK_LOCKS
    | init::AUTO_INVAL_DATA
    | init::DO_READDIRPLUS
    | init::READDIRPLUS_AUTO
    | init::ASYNC_DIO
    | init::PARALLEL_DIROPS
    | init::MAX_PAGES
    | init::CACHE_SYMLINKS
    | init::HANDLE_KILLPRIV_V2;

/// Asynchronous requests (read-ahead, write-back) that the guest's kernel may have under way.
const MAX_BACKGROUND: u16 = 64;

impl Session {
    /// Executes a request with this thread's credentials. On an error what was built of the reply is void.
    pub(super) fn execute(&self, request: Request<'_>, reply: &mut Reply) -> Result<(), Errno> {
        use Operation as O;
        let node = request.node;
        match request.operation {
            O::Init { major, minor, max_readahead, flags } => init(major, minor, max_readahead, flags, reply),
            O::Destroy | O::Interrupt => Ok(()),
            O::Forget { lookups } => {
                self.inodes.forget(node, lookups);
                Ok(())
            }
            O::BatchForget(forgets) => {
                forgets.for_each(|(id, lookups)| self.inodes.forget(id, lookups));
                Ok(())
            }
            O::Lookup { name } => self.lookup(node, name, reply),
            O::SymLink { name, target } => self.symlink(node, name, target, reply),
            O::MkNod { name, mode, umask } => self.mknod(node, name, mode, umask, reply),
            O::MkDir { name, mode, umask } => self.mkdir(node, name, mode, umask, reply),
            O::Unlink { name } => self.unlink(node, name),
            O::RmDir { name } => self.rmdir(node, name),
            O::Rename { name, to, new_name, flags } => self.rename(node, name, to, new_name, flags),
            O::Link { of, name } => self.link(of, node, name, reply),
            O::ReadLink => self.readlink(node, reply),
            O::GetAttr { handle } => self.getattr(node, handle, reply),
            O::SetAttr(changes) => self.setattr(node, &changes, reply),
            O::StatFs => self.statfs(node, reply),
            O::Access { mask } => self.access(node, mask),
            O::SetXattr { name, value, flags } => self.setxattr(node, name, value, flags),
            O::GetXattr { name, size } => self.getxattr(node, name, size, reply),
            O::ListXattr { size } => self.listxattr(node, size, reply),
            O::RemoveXattr { name } => self.removexattr(node, name),
            O::Open { flags } => self.open(node, flags, reply),
            O::Create { name, flags, mode, umask } => self.create(node, name, flags, mode, umask, reply),
            O::TmpFile { flags, mode, umask } => self.tmpfile(node, flags, mode, umask, reply),
            O::Read { handle, offset, size } => self.read(handle, offset, size, reply),
            O::Write { handle, offset, append, data } => self.write(handle, offset, append, data, reply),
            O::Flush { handle, owner } => self.flush(handle, node, owner),
            O::Release { handle } => {
                self.release(handle);
                Ok(())
            }
            O::FSync { handle, data_only } => self.fsync(handle, data_only),
            O::Seek { handle, offset, whence } => self.seek(handle, offset, whence, reply),
            O::Allocate { handle, offset, length, mode } => self.allocate(handle, offset, length, mode),
            O::CopyRange { from, from_offset, to, to_offset, length, flags } => {
                self.copy_range((from, from_offset), (to, to_offset), length, flags, reply)
            }
            O::OpenDir => self.opendir(node, reply),
            O::ReadDir(listing) => self.readdir(listing, reply),
            O::ReadDirPlus(listing) => self.readdirplus(node, listing, reply),
            O::ReleaseDir { handle } => {
                self.release(handle);
                Ok(())
            }
            O::FSyncDir { handle, data_only } => self.fsyncdir(handle, data_only),
            O::GetLock(wanted) => self.get_lock(node, wanted, reply),
            O::SetLock(wanted) => self.set_lock(node, wanted),
            O::Unknown(opcode) => {
                log::debug!("request {opcode} is not served");
                Err(Errno::ENOSYS)
            }
        }
    }
}

/// Agrees with the guest's kernel on what both can do.
fn init(major: u32, minor: u32, max_readahead: u32, flags: u32, reply: &mut Reply) -> Result<(), Errno> {
    if major != abi::MAJOR || minor < abi::OLDEST_MINOR {
        log::warn!("the guest's kernel speaks FUSE {major}.{minor}, too old or too new");
        return Err(Errno::EPROTO);
    }
    let max_io = u32::try_from(abi::MAX_IO).unwrap_or(0);
    let max_pages = u16::try_from(abi::MAX_IO / 4096).unwrap_or(0);
    reply.u32(abi::MAJOR).u32(abi::MINOR).u32(max_readahead).u32(flags & WANTED);
    reply.u16(MAX_BACKGROUND).u16(MAX_BACKGROUND / 4 * 3).u32(max_io);
    // Time stamps are exact to the nanosecond; the rest is for features that are not wanted.
    reply.u32(1).u16(max_pages).u16(0).bytes(&[0; 32]);
    Ok(())
}
