"""Training without Kedro: data in memory or from a feature store, teachers, students, the loop itself."""

from g2d_pipeline.training.data import Data
from g2d_pipeline.training.fitting import fit
from g2d_pipeline.training.history import DivergenceError
from g2d_pipeline.training.recipes import train_student, train_teacher
from g2d_pipeline.training.smp import SMP, phase_of, rank
from g2d_pipeline.training.teachers import TeacherOutputs, teacher_outputs
from g2d_pipeline.training.trainer import FitResult, Trainer

__all__ = [
    "SMP",
    "Data",
    "DivergenceError",
    "FitResult",
    "TeacherOutputs",
    "Trainer",
    "fit",
    "phase_of",
    "rank",
    "teacher_outputs",
    "train_student",
    "train_teacher",
]
