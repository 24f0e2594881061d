//! How clients use the seam: at once what can be done at once, and the rest by waiting.

use block::{ByteRange, Result};
use flow::{Flags, Now, Op, Request, Root, Window, seam};
use io::Lease;

/// Whether a client tries before it waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// As the NBD loop: try, and on Wait take what is done along.
    Try,
    /// Only the path that waits.
    Wait,
}

pub async fn read(root: &Root, range: ByteRange, way: Way) -> Result<Vec<u8>> {
    let mut rq = Request::new(Op::Read, range);
    let mut bytes = vec![0xdd; range.len() as usize];
    let view = {
        let turn = root.turn();
        if way == Way::Try && seam::try_now(&turn, &mut rq, Window::In(&mut bytes))? == Now::Done {
            return Ok(bytes);
        }
        turn.view().clone()
    };
    let mut lease = Lease::new(bytes.len());
    lease.fill(0xcc);
    let done = rq.done as usize;
    lease[..done].copy_from_slice(&bytes[..done]);
    let (result, lease) = seam::execute(&view, rq, lease).await;
    result.map(|()| lease.to_vec())
}

pub async fn write(root: &Root, start: u64, bytes: &[u8], way: Way) -> Result<()> {
    let mut rq = Request::new(Op::Write, ByteRange::new(start, bytes.len() as u64));
    let view = {
        let turn = root.turn();
        if way == Way::Try && seam::try_now(&turn, &mut rq, Window::Out(bytes))? == Now::Done {
            return Ok(());
        }
        turn.view().clone()
    };
    seam::execute(&view, rq, Lease::copy_of(bytes)).await.0
}

pub async fn change(root: &Root, op: Op, range: ByteRange, flags: Flags) -> Result<()> {
    let rq = Request::new(op, range).with_flags(flags);
    seam::execute(&root.view(), rq, Lease::empty()).await.0
}
