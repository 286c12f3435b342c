//! Tokens that a session has verified lately. Behind a pooler each transaction shows its token again, and a signature takes
//! longer to check than the rest of a short transaction.

use std::collections::VecDeque;

use sha2::{Digest, Sha256};

use super::token::{Credential, LONGEST, PublicKey, TokenError, verify};

/// How many a session remembers: those of the clients that share a server connection of a pool.
const REMEMBERED: usize = 64;

/// They are known by their digests: no secret is kept, and how long a comparison takes tells nothing of one.
#[derive(Debug, Default)]
pub struct Proofs(VecDeque<([u8; 32], Credential)>);

impl Proofs {
    /// None yet.
    pub const fn new() -> Proofs {
        Proofs(VecDeque::new())
    }

    /// What [`verify`] says. Of a token that was verified before only that is asked which may have changed: whether its time is
    /// over, and its key still registered.
    ///
    /// # Errors
    /// Those of [`verify`].
    pub fn verify(
        &mut self,
        keys: &[PublicKey],
        token: &str,
        audience: &str,
        now: i64,
    ) -> Result<Credential, TokenError> {
        if token.len() > LONGEST {
            return verify(keys, token, audience, now);
        }
        // A name has no zero byte, so the parts can't be mistaken for each other.
        let digest = Sha256::new().chain_update(audience).chain_update([0]).chain_update(token).finalize().into();
        if let Some(at) = self.0.iter().position(|(known, _)| *known == digest) {
            match self.0.get(at) {
                Some((_, credential)) if credential.holds(keys, now) => return Ok(credential.clone()),
                _ => self.0.remove(at),
            };
        }
        let credential = verify(keys, token, audience, now)?;
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((digest, credential.clone()));
        Ok(credential)
    }
    /// How many are remembered.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}
