//! Changing the virtual size. New bytes read as zeros, also where a backing child is longer.

use std::sync::atomic::Ordering::SeqCst;

use block::{BlockError, ByteRange, ErrorKind, Result};
use flow::{Format, Next, Op, Request, Resize};
use io::LocalFut;

use super::MemoryFormat;
use super::table::{Entry, SIZE_MAX};

impl Resize for MemoryFormat {
    fn resize<'a>(&'a self, size: u64, next: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(async move {
            if size > SIZE_MAX {
                let context = format!("a size of {size} bytes: at most {SIZE_MAX} is possible");
                return Err(BlockError::new(ErrorKind::Invalid, context));
            }
            let old = self.size();
            if size < old {
                self.shrink(size, old, next).await;
                return Ok(());
            }
            self.grow(old, size, next).await
        })
    }
}

impl MemoryFormat {
    async fn shrink(&self, size: u64, old: u64, next: Next<'_>) {
        self.size.store(size, SeqCst);
        self.table.bump(ByteRange::between(size, old));
        let gone = ByteRange::between(self.cluster().up(size), self.cluster().up(old));
        self.replace(gone, Entry::Unallocated, next).await;
    }

    async fn grow(&self, old: u64, size: u64, next: Next<'_>) -> Result<()> {
        let whole = self.cluster().up(old);
        let tail = ByteRange::between(old, whole.min(size));
        // What was cut off by an earlier shrinking may still lie there, or a longer backing child may show.
        self.zero_part(Request::new(Op::WriteZeroes, tail), tail, next).await?;
        self.table.cover(size);
        self.replace(ByteRange::between(whole, self.cluster().up(size)), Entry::Zero, next).await;
        self.size.store(size, SeqCst);
        self.table.bump(ByteRange::between(old, size));
        Ok(())
    }
}
