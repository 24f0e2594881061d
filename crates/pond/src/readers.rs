//! Who may read a cache without the daemon: each owner of a pivoted disk, through a folder that is theirs alone.
//!
//! Caches lie where only the daemon's user comes. What a disk is pivoted to is a second name of the cache's file, in
//! the folder of the user whose disk it is (`docs/decisions/005-who-reads-a-cache.md`).
//!
//! Invariants: a name is there before a disk is told of it, and until the image is removed, wherever the disk has gone
//! meanwhile; nothing in a user's folder is believed or followed, since the user may change it.

use std::io::ErrorKind as Std;
use std::path::PathBuf;

use block::{BlockError, ErrorKind};
use io::folders::Owner;

use crate::layout::Layout;
use crate::pond::Pond;
use crate::refusal::{Refusal, Remedy, Result};

impl Pond {
    /// Lets `owner` read the cache of `image`, which is complete; answers the name that they read it by.
    pub(crate) async fn grant(&self, image: &str, owner: Owner) -> Result<PathBuf> {
        let folders = self.engine.world().folders();
        let cache = self.layout.cache(image);
        let (folder, name) = (self.layout.reader(owner.user), self.layout.reading(owner.user, image));
        let granted = async {
            // Nobody writes to it any more.
            folders.set_mode(&cache, 0o444).await?;
            folders.make(&folder, 0o700).await?;
            folders.link(&cache, &name).await?;
            if folders.about(&folder).await?.owner.user != owner.user {
                folders.set_owner(&folder, owner).await?;
            }
            Ok(())
        };
        let failed = |e| {
            let error =
                BlockError::system(format!("cannot let user {} read '{}'", owner.user, name.display()), e);
            match error.kind() {
                ErrorKind::NotPermitted => Refusal::of(error, Remedy::RunAsOwner),
                _ => error.into(),
            }
        };
        granted.await.map_err(failed)?;
        Ok(name)
    }

    /// Takes away all names of the cache of `image` but its own.
    pub(crate) async fn revoke(&self, image: &str) -> Result<()> {
        let folders = self.engine.world().folders();
        let all = self.layout.readers();
        let found = folders.list(&all).await;
        for folder in found.map_err(|e| BlockError::system(format!("cannot list '{}'", all.display()), e))? {
            let name = Layout::reading_in(&folder, image);
            match folders.remove(&name).await {
                Err(error) if !matches!(error.kind(), Std::NotFound | Std::NotADirectory) => {
                    return Err(
                        BlockError::system(format!("cannot remove '{}'", name.display()), error).into()
                    );
                }
                _ => {}
            }
            // It has names of other caches, or something that its user put there.
            let _ = folders.remove_folder(&folder).await;
        }
        Ok(())
    }
}
