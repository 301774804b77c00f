"""Says who plays whom, in a photo and a video of several.

python examples/several_people.py PHOTO VIDEO 0:1,1:0
"""

import sys

import tpc_fast

photo, video, roles = sys.argv[1:]
match = [tuple(map(int, pair.split(":"))) for pair in roles.split(",")]
people = 1 + max(driving for _, driving in match)
calibration = tpc_fast.calibrate(photo, video, match=match, detector=f"blazepose:people={people}")
for person in range(calibration.persons):
    tracked = (calibration.status[:, person] == "tracked").mean()
    print(
        f"person {person} of the photo is played by driving person {calibration.match[person]}: {tracked:.0%} tracked"
    )
print("from back to front in the first frame:", *calibration.order[0])
