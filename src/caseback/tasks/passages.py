"""A few short stories, in plain words, for tasks that need running text."""

PASSAGES = (
    "Mary was a kind girl who lived near the river. One morning she found a red box at the bridge. The box was old "
    "and wet, and she could not open it. So she took it to her brother, who worked at the harbor. He opened the "
    "box, and there was a small gold key in it. Mary was happy. She put the key in her bag and went home with her "
    "brother.",
    "Once there was a quiet boy called Tom. He had a blue kite. On Monday, he took the kite to the hill with his "
    "father. The kite went up and up, and Tom laughed. Then the kite fell into a tree near the church. His father "
    "was tall, so he got it down. In the evening Tom told his mother about the kite and the tree, and they ate some "
    "bread and soup.",
    "Anna and Paul went to the market. Anna wanted to buy a lamp, and Paul wanted to buy a hat. The lamp was too "
    "old and the hat was too small. So Anna bought a cake and Paul bought an apple. They sat by the lake and shared "
    "the cake. Then a bird came and took the apple. Paul was sad, but Anna gave him the last piece of the cake.",
    "The teacher had a big map on the wall. She asked the boys and girls about it. Peter said that the capital of "
    "France is Paris. Emma said that the people of Spain speak Spanish. Then the teacher asked about the days. "
    "After Monday comes Tuesday, and after Tuesday comes Wednesday. The teacher was happy and gave a cookie to Emma "
    "and to Peter.",
    "There was a farmer who had three horses and two dogs. The horses were strong and the dogs were fast. One night "
    "the door of the barn was open, and the horses went to the forest. In the morning the farmer was sad. But the "
    "dogs ran to the forest and found the horses near the river. The farmer gave some milk to the dogs and closed "
    "the door.",
    "When Lucy woke up, she went to the kitchen. Her mother was there with a cup of tea. Lucy was hungry, so she "
    "ate some bread with butter and honey. Then she took her violin and went to school. At the school she met her "
    "friend Grace, who played the piano. Lucy and Grace played a song, and the teacher said that it was wonderful.",
    "Jack worked as a baker in a village near a lake. Every morning he made bread for the people of the village. "
    "One day the king came and ate some of the bread. He said that it was perfect and wanted Jack to work at the "
    "castle. But Jack liked the village and the lake. So he gave the king two cakes, and the king went home with "
    "the cakes.",
    "Nora and Leo found a bottle at the beach. In the bottle there was a letter from a sailor. The sailor said that "
    "he had lost his ring near the old bridge. So Nora and Leo went to the bridge. Leo saw a ring behind a stone, "
    "and Nora saw a boat on the river. The sailor was in the boat. Nora gave the ring to the sailor, and he thanked "
    "her.",
)
