"""The paper in small: trainings side by side, its Tables 2 to 5 and Figures 6 to 11, and what its attack may have been.

plan       what is trained and measured, as the command line says
trainings  one process for each core trains, every training for the same minutes
measure    photographs under each attack, through each purifier: one file for each outcome
figures    outcomes -> figures.json
tables     figures.json -> tables, also in docs/reproduce.md
pictures   Figures 6 to 11, as PNG
readings   other readings of the paper's attack, and how many photographs survive them

`make reproduce-small PHOTOS=DIR VAL=DIR` runs all of it; each stage is skipped where its result exists.
"""
