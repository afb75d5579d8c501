//! What a receive queue needs and must not lose while nobody polls it: the port keeps it, a queue borrows it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::port::PmdError;

/// One place per receive queue; empty while the queue is in use.
pub(super) struct Parked<T>(Arc<[Mutex<Option<T>>]>);

/// What one queue has taken; goes back when dropped.
pub(super) struct Taken<T> {
    value: Option<T>,
    home: Arc<[Mutex<Option<T>>]>,
    index: usize,
}

impl<T> Parked<T> {
    pub(super) fn new(values: Vec<T>) -> Parked<T> {
        Parked(values.into_iter().map(|value| Mutex::new(Some(value))).collect())
    }

    /// Takes what queue `index` of the port named needs.
    pub(super) fn take(&self, port: &str, index: u16) -> Result<Taken<T>, PmdError> {
        let error = |problem| PmdError::Queue { port: port.to_owned(), index, problem };
        let at = usize::from(index);
        let place = self.0.get(at).ok_or_else(|| error("does not exist"))?;
        let value = place.lock().unwrap_or_else(PoisonError::into_inner).take();
        let value = value.ok_or_else(|| error("is in use"))?;
        Ok(Taken { value: Some(value), home: self.0.clone(), index: at })
    }
}

impl<T> Taken<T> {
    /// What was taken; there until this is dropped.
    #[inline]
    pub(super) fn get(&mut self) -> Option<&mut T> {
        self.value.as_mut()
    }
}

impl<T> Drop for Taken<T> {
    fn drop(&mut self) {
        if let Some(place) = self.home.get(self.index) {
            *place.lock().unwrap_or_else(PoisonError::into_inner) = self.value.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_taken_once_and_comes_back_as_it_was() {
        let parked = Parked::new(vec![1, 2]);
        let mut one = parked.take("p", 0).unwrap();
        *one.get().unwrap() = 7;
        assert!(parked.take("p", 0).err().unwrap().to_string().contains("in use"));
        assert!(parked.take("p", 2).err().unwrap().to_string().contains("does not exist"));
        drop(one);
        assert_eq!(parked.take("p", 0).unwrap().get(), Some(&mut 7));
        assert_eq!(parked.take("p", 1).unwrap().get(), Some(&mut 2));
    }
}
