//! Tables of an image in use that move: a lie that leads to their new places is found, because these are known.

use block::NewSnapshot;
use flow::{BitmapChange, Request, View, seam};
use io::Lease;
use qcow2::{Header, NewImage};
use serde_json::json;
use sim::{Options, SimWorld};

use super::Lab;

/// A disk whose L1 table fits one cluster, and one that does not.
const SIZE: u64 = 1 << 20;
const LARGER: u64 = 4 << 20;
const COPIED: u64 = 1 << 63;

/// How a table moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Move {
    /// The L1 table, when a snapshot keeps the old one.
    Snapshot,
    /// The L1 table, when it gets longer.
    Resize,
    /// The directory of bitmaps, when they are stored.
    Bitmaps,
}

impl Move {
    pub const ALL: [Self; 3] = [Self::Snapshot, Self::Resize, Self::Bitmaps];

    async fn make(self, view: &View) {
        let (powers, next) = (view.root().powers(), view.next());
        match self {
            Self::Snapshot => {
                let new = NewSnapshot { name: "kept".to_owned(), ..NewSnapshot::default() };
                powers.snapshots.unwrap().create(new, next).await.unwrap();
            }
            Self::Resize => seam::resize(view, LARGER).await.unwrap(),
            Self::Bitmaps => {
                let add = BitmapChange::Add { granularity: 512, recording: false, persistent: true };
                powers.bitmaps.unwrap().change("b", add, next).await.unwrap();
                seam::rest(view).await.unwrap();
            }
        }
    }

    fn now_at(self, header: &Header) -> u64 {
        match self {
            Self::Bitmaps => header.bitmaps.unwrap().directory.0,
            Self::Snapshot | Self::Resize => header.l1_offset.0,
        }
    }
}

/// The first entry of the disk comes to point to a table that has moved. Answers the error of who writes there; `None`
/// where he writes over the table.
pub fn write_over(moved: Move) -> Option<String> {
    let world = SimWorld::new(1, Options::calm());
    world.run(async {
        let lab = Lab::new(&world);
        let view = lab.qcow2("disk", &NewImage::new(SIZE, 9), json!({}), None).await.view();
        seam::write(&view, 0, &[7; 512]).await.unwrap();
        seam::execute(&view, Request::flush(), Lease::empty()).await.0.unwrap();
        world.disk().put("again", &world.disk().bytes("disk").unwrap());
        let view = lab.open_qcow2("again", json!({}), None).await.view();
        moved.make(&view).await;
        let now = world.disk().bytes("again").unwrap();
        let header = Header::parse(&now[..512]).unwrap();
        let word = |at: u64| u64::from_be_bytes(now[at as usize..][..8].try_into().unwrap());
        let (entry, target) = (word(header.l1_offset.0) & !COPIED, moved.now_at(&header));
        assert!(entry != 0 && target != 0, "nothing has moved");
        let (below, _) = lab.file("again").await;
        seam::write(&below.view(), entry, &(target | COPIED).to_be_bytes()).await.unwrap();
        seam::write(&view, 0, &[1; 512]).await.err().map(|error| error.to_string())
    })
}
