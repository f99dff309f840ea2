//! How far chance alone would move a difference: the moving-block bootstrap of H. R. Künsch, "The jackknife and the
//! bootstrap for general stationary observations", Annals of Statistics 17 (1989), 1217–1241.
//!
//! Seconds that follow each other are alike, so they are not drawn one by one but in blocks of neighbours, which keep
//! that likeness; the length of a block is the cube root of the number of seconds, rounded up, the order that minimises
//! the error of the variance. A side of several runs is drawn in two steps, first runs and then blocks within each, and
//! its figure is the median over its runs. The interval is between the 2.5th and 97.5th percentile of the differences.
//!
//! Limits: with fewer than a few dozen seconds, or with two or three runs, such an interval is somewhat too narrow.

use crate::compare::figure::FIGURES;
use crate::compare::run::{Figures, Run};
use crate::plan::Random;

/// A difference B − A, and where it lies with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// The figure of side A.
    pub a: f64,
    /// The figure of side B.
    pub b: f64,
    /// The interval's ends.
    pub low: f64,
    /// The interval's ends.
    pub high: f64,
}

/// Every figure's difference; `None` where a side did not measure it. The same runs and seed give the same answer.
#[must_use]
pub fn differences(a: &[Run], b: &[Run], seed: u64) -> [Option<Difference>; FIGURES] {
    let mut random = Random::new(seed);
    let mut drawn: [Vec<f64>; FIGURES] = Default::default();
    for _ in 0..REPLICATES {
        let (of_a, of_b) = (draw(a, &mut random), draw(b, &mut random));
        for (differences, (of_a, of_b)) in drawn.iter_mut().zip(of_a.into_iter().zip(of_b)) {
            differences.extend(of_a.zip(of_b).map(|(of_a, of_b)| of_b - of_a));
        }
    }
    let all = |runs: &[Run]| medians(&runs.iter().map(Run::figures).collect::<Vec<_>>());
    let (of_a, of_b) = (all(a), all(b));
    std::array::from_fn(|figure| {
        let (a, b) = of_a[figure].zip(of_b[figure])?;
        let differences = &mut drawn[figure];
        differences.sort_by(f64::total_cmp);
        let at = |share: f64| differences.get((share * (differences.len() - 1) as f64).round() as usize).copied();
        // Where a figure is missing from some draws, its draws say nothing about it.
        let is_whole = differences.len() == REPLICATES;
        is_whole.then_some(())?;
        Some(Difference { a, b, low: at(0.025)?, high: at(0.975)? })
    })
}

/// One draw of a side.
fn draw(runs: &[Run], random: &mut Random) -> Figures {
    let figures: Vec<Figures> = (0..runs.len())
        .map(|_| {
            let run = &runs[random.below(runs.len() as u64) as usize];
            let (costs, latencies) = run.pieces();
            run.figures_of(&blocks(costs, random), &blocks(latencies, random))
        })
        .collect();
    medians(&figures)
}

/// As many places as there are pieces, in blocks of neighbours.
fn blocks(pieces: usize, random: &mut Random) -> Vec<usize> {
    let length = ((pieces as f64).cbrt() - 1e-9).ceil().max(1.0) as usize;
    let mut places = Vec::with_capacity(pieces + length);
    while places.len() < pieces {
        let from = random.below((pieces - length + 1) as u64) as usize;
        places.extend(from..from + length);
    }
    places.truncate(pieces);
    places
}

/// The median of each figure over the runs; `None` where a run has none.
fn medians(runs: &[Figures]) -> Figures {
    std::array::from_fn(|figure| {
        let mut values: Vec<f64> = runs.iter().map(|run| run[figure]).collect::<Option<_>>()?;
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.len() {
            0 => None,
            n if n % 2 == 1 => Some(values[middle]),
            _ => Some(f64::midpoint(values[middle - 1], values[middle])),
        }
    })
}

/// Draws.
const REPLICATES: usize = 2_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_neighbours_and_cover_every_piece() {
        let mut random = Random::new(7);
        let mut seen = [0_u32; 27];
        for _ in 0..500 {
            let places = blocks(27, &mut random);
            assert_eq!(places.len(), 27);
            for block in places.chunks(3) {
                assert!(block.windows(2).all(|pair| pair[1] == pair[0] + 1), "{block:?}");
            }
            places.into_iter().for_each(|place| seen[place] += 1);
        }
        assert!(seen.iter().all(|&n| n > 100), "{seen:?}");
        assert_eq!(blocks(1, &mut random), [0]);
        assert!(blocks(0, &mut random).is_empty());
    }

    #[test]
    fn the_median_of_runs_bears_one_bad_run() {
        let run = |value| [Some(value); FIGURES];
        assert_eq!(medians(&[run(3.0), run(1.0), run(900.0)])[0], Some(3.0));
        assert_eq!(medians(&[run(3.0), run(1.0)])[0], Some(2.0));
        assert_eq!(medians(&[run(3.0), [None; FIGURES]])[0], None);
        assert_eq!(medians(&[])[0], None);
    }
}
