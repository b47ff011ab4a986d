//! Which devices CUDA shows a process.

/// The devices that `CUDA_VISIBLE_DEVICES` leaves of those with these UUIDs, which stand in the order of the PCI bus; all of them
/// where it isn't set.
///
/// An entry is a place in that order, or a UUID or the beginning of one. As with CUDA, the list ends at the first entry that is
/// neither: `-1` or nothing at all hides every device, and so do the instances of a partitioned GPU (`MIG-…`), which aren't known
/// here.
pub(crate) fn visible_devices(list: Option<&str>, uuids: &[String]) -> Vec<String> {
    let Some(list) = list else {
        return uuids.to_vec();
    };
    let named = list
        .split(',')
        .map_while(|entry| named(entry.trim(), uuids));
    let mut visible: Vec<String> = Vec::new();
    for uuid in named {
        if !visible.contains(uuid) {
            visible.push(uuid.clone());
        }
    }
    visible
}

fn named<'a>(entry: &str, uuids: &'a [String]) -> Option<&'a String> {
    if let Ok(place) = entry.parse::<usize>() {
        return uuids.get(place);
    }
    let fits = |uuid: &&String| entry.starts_with("GPU-") && uuid.starts_with(entry);
    let mut fitting = uuids.iter().filter(fits);
    fitting.next().filter(|_| fitting.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_places_or_uuids_up_to_the_first_that_is_neither() {
        let uuids = ["GPU-aa11", "GPU-ab22", "GPU-cc33"].map(str::to_owned);
        let visible = |list| visible_devices(list, &uuids).join(" ");
        assert_eq!(visible(None), "GPU-aa11 GPU-ab22 GPU-cc33");
        assert_eq!(visible(Some("2,0")), "GPU-cc33 GPU-aa11");
        assert_eq!(visible(Some("0, 0,1")), "GPU-aa11 GPU-ab22");
        assert_eq!(visible(Some("GPU-ab22,GPU-c")), "GPU-ab22 GPU-cc33");
        assert_eq!(visible(Some("1,7,0")), "GPU-ab22");
        for none in ["", "-1", "GPU-a", "NoDevFiles", "MIG-aa11", "3"] {
            assert_eq!(visible(Some(none)), "", "{none}");
        }
    }
}
