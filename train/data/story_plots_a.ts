import type { Plot } from "./corpus.ts";

const open = [
  "Once upon a time, there was {h.intro}.",
  "Once there was {h.intro} who lived near {place}.",
  "There once was {h.intro}.",
  "{^h.intro} lived in a [small|cozy|little] house with {h.his} {g}.",
  "In a [small|quiet] town near {place} lived {h.intro}.",
];
const about = [
  "{h} was {trait} and loved to {hobby}.",
  "{^h.he} liked to {hobby} [all day long|every day|with {h.his} {g}].",
  "Everyone said that {h} was very {trait}.",
];

/** The first eight plots: paragraphs of beats, each beat a choice of sentences. */
export const plotsA: readonly Plot[] = [
  {
    name: "lost toy",
    paragraphs: [
      [
        open,
        [
          "{^h.his} favorite toy was {a toy}.",
          "{^h.he} had {a toy} that {h.he} took everywhere.",
          "More than anything, {h.he} loved {h.his} {toy}.",
        ],
        [
          "One {weather} morning, the {toy} was gone.",
          "One day, {h} woke up and could not find the {toy}.",
          "But one {weather} day, the {toy} was not in its place.",
        ],
      ],
      [
        [
          "{h} looked {spot1}, but it was not there. Then {h.he} looked {spot2}. It was not there either.",
          "First {h.he} looked {spot1}. Then {h.he} looked {spot2}. [There was only dust.|Nothing!]",
          "{^h.he} searched {spot1} and {spot2}, but the {toy} was nowhere.",
        ],
        [
          "{h} sat down and began to cry.",
          "{^h.he} felt so {sad} that a tear rolled down {h.his} cheek.",
          "{h} was {sad} and did not want to play.",
        ],
        [
          '"What is wrong?" asked {h.his} {g}. "I can\'t find my {toy}," said {h}.',
          '"My {toy} is lost!" {h} told {h.his} {g}. "Don\'t worry," {g.he} said. "We will look together."',
          '{^h.his} {g} gave {h.him} a hug and asked, "Where did you play with it last?"',
        ],
      ],
      [
        [
          "They looked {spot3}, and there it was!",
          'Then {g.he} pointed at something {colorful}. "Look {spot3}!" {g.he} said. It was the {toy}!',
          "Together they looked {spot3}. The {toy} had been there all the time!",
        ],
        [
          '{h} hugged the {toy} and said, "Thank you, {^g}!"',
          '"Hooray!" shouted {h}, and {h.he} danced around the room.',
          "{h} was so {happy} that {h.he} jumped up and down.",
        ],
        [
          "From that day on, {h.he} put the {toy} away every night.",
          "That night, {h} slept with the {toy} in {h.his} arms.",
          "After that, {h} always kept the {toy} in a safe place.",
        ],
      ],
    ],
  },
  {
    name: "new friend",
    paragraphs: [
      [
        open,
        [
          "{h} was new in town and had no friends yet.",
          "{^h.he} often played alone and wished for a friend.",
          "{h} was shy, and {h.he} did not know how to make friends.",
        ],
        [
          "One {weather} day, {h.he} went {place.to} and saw {f.intro}.",
          "One {weather} afternoon, {h} met {f.intro} {place.at}.",
        ],
      ],
      [
        [
          "{f} sat [alone|all alone] and looked {sad}.",
          "{f} was playing with {a toy}.",
          "{f} was trying to reach {a toy} in a tree, but it was too high.",
        ],
        [
          "{h} wanted to say hello, but {h.he} felt too shy. {^h.he} took a deep breath and walked over.",
          "At first {h} hid behind a tree. Then {h.he} felt brave and stepped out.",
          "{h}'s heart beat fast, but {h.he} walked up to {f}.",
        ],
        [
          '"Hello, I am {h}. Do you want to play with me?" {h.he} asked.',
          '"Hi! My name is {h}," {h.he} said in a small voice. "Can I play too?"',
        ],
        [
          '{f} smiled. "Yes, please!" {f.he} said. "I am {f}."',
          '"I would like that very much," said {f} with a big smile.',
        ],
      ],
      [
        [
          "They played {game} until the sun went down.",
          "The two played {game} and laughed all afternoon.",
          "They shared {a snack} and played {game}.",
        ],
        [
          'When it was time to go home, {f} said, "See you tomorrow!"',
          '"Let\'s play again tomorrow," said {h}, and {f} nodded.',
        ],
        [
          "{h} was {happy}. {^h.he} had a new friend.",
          "From that day on, {h} and {f} were best friends.",
          "{h} ran home to tell {h.his} {g} all about {h.his} new friend.",
        ],
      ],
    ],
  },
  {
    name: "rescue",
    paragraphs: [
      [
        open,
        about,
        [
          "One {weather} day, {h} was walking {place.at} when {h.he} heard a [small|sad|soft] cry.",
          "One {weather} morning, {h} went {place.to}. Suddenly, {h.he} heard a [small|quiet] sound.",
        ],
      ],
      [
        [
          "It was {a critter}! It was {trouble}.",
          "{^h.he} looked around and saw {a critter} that was {trouble}.",
          "There, {h.he} found {a critter}. It was {trouble} and could not get out.",
        ],
        [
          '"Oh no! Don\'t be afraid," said {h}. "I will help you."',
          '"You poor little thing," {h} whispered. "I will get you out."',
          '"Stay still, little {critter}," said {h}. "I am here to help."',
        ],
        [
          "{h} {free}, and soon the {critter} was free.",
          "{^h.he} tried once, but it was too hard. So {h.he} called {h.his} friend {f}, and together they {free}.",
          "Very gently, {h} {free}. At last, the {critter} could move again.",
        ],
      ],
      [
        [
          "The {critter} was hungry, so {h} gave it some water and made it a soft bed of grass.",
          "{h} wrapped the {critter} in {h.his} scarf to keep it warm.",
          "The {critter} looked up at {h} with thankful eyes.",
        ],
        [
          "Then its mother came, and the {critter} was safe.",
          "After a short rest, the {critter} went home to its family.",
        ],
        [
          '"You have a kind heart," said {h.his} {g} that evening.',
          "{h} felt {happy}, because helping others feels good.",
          "Every time {h} came back, the {critter} was there to say hello.",
        ],
      ],
    ],
  },
  {
    name: "sharing",
    paragraphs: [
      [
        open,
        [
          "One {weather} day, {h.his} {g} gave {h.him} a basket of {snacks}.",
          "One morning, {h} and {h.his} {g} made a big plate of {snacks}.",
          "One {weather} day, {h} found a whole basket of {snacks} on the kitchen table.",
        ],
        [
          '"They are all mine!" said {h}.',
          '"I will eat every one of them," thought {h}.',
          "{h} took the {snacks} {place.to} and sat down under a tree.",
        ],
      ],
      [
        [
          "Soon {f.intro} came by. {^f.he} looked at the {snacks} and {f.his} tummy rumbled.",
          "Then {h} saw {f.intro}. {^f.he} had nothing to eat.",
        ],
        [
          '"May I have one?" asked {f}. "No, they are mine," said {h}.',
          '"Those {snacks} smell so good," said {f}. {h} turned away and said nothing.',
        ],
        [
          "{f} walked away with {f.his} head down. Now the {snacks} did not taste so good anymore.",
          "{f} looked so {sad} that {h} stopped eating. Something felt wrong.",
        ],
        [
          '{h} ran after {f.him} and said, "Wait! I am sorry. Let\'s share."',
          '"Come back!" called {h}. "There is enough for two."',
        ],
      ],
      [
        [
          "They sat side by side and ate the {snacks} together.",
          "{h} gave half of the {snacks} to {f}, and they both smiled.",
        ],
        ['"Thank you," said {f}. "You are a good friend."', '"This is the best {snack} ever," said {f}.'],
        [
          "{h} learned that food tastes better when you share it.",
          "{h} was {happy}. Sharing was much more fun than eating alone.",
          "After that day, {h} always brought one {snack} more for {f}.",
        ],
      ],
    ],
  },
  {
    name: "learning",
    paragraphs: [
      [
        open,
        [
          "More than anything, {h} wanted to learn how to {skill}.",
          "All of {h.his} friends could {skill}, but {h} could not.",
          'One {weather} day, {h} said, "I want to {skill}!"',
        ],
      ],
      [
        [
          "{^h.he} tried it the next morning, but {fail}.",
          "The first time {h.he} tried, {fail}.",
          "{h} began to practice. But again and again, {fail}.",
        ],
        [
          '"I can\'t do it!" cried {h}. "It is too hard."',
          '{h} was [angry|upset] and said, "I will never try again!"',
          "{^h.he} felt {sad} and wanted to give up.",
        ],
        [
          '"Nobody can do it the first time," said {h.his} {g}. "Try a little every day."',
          '{^h.his} {g} sat down beside {h.him}. "I also had to try many times," {g.he} said.',
          '{^h.his} friend {f} said, "I will help you. Let\'s practice together!"',
        ],
        [
          "So {h} tried again the next day, and the day after that.",
          "So {h} kept {skilling} every day after breakfast.",
          "Day after day, {h} practiced. Each day it got a little better.",
        ],
      ],
      [
        [
          "Then, one {weather} morning, it worked! {h} {win}.",
          "At last, {h} did it! {^h.he} {win}.",
          "After many days, {h} {win}. Everyone clapped.",
        ],
        [
          '"I did it! I did it!" shouted {h}.',
          '"Look at me, {^g}!" called {h}.',
          "{^h.his} {g} gave {h.him} a big hug.",
        ],
        [
          "{h} was {happy}. {^h.he} knew that it is good to keep trying.",
          "From then on, {h} loved {skilling} more than anything else.",
          "That night, {h} dreamed of all the things {h.he} would learn next.",
        ],
      ],
    ],
  },
  {
    name: "night fear",
    paragraphs: [
      [
        open,
        [
          "{h} was brave by day, but at night {h.he} was afraid of the dark.",
          "{h} did not like to sleep alone, because {h.his} room was dark.",
        ],
        [
          "One night, {h.he} heard {sound}.",
          "One windy night, {h} lay in bed and heard {sound}.",
          "In the middle of the night, {sound} woke {h.him} up.",
        ],
      ],
      [
        [
          "{^h.he} pulled the blanket over {h.his} head. {^h.his} heart went thump, thump, thump.",
          "{h} held {h.his} {toy} very tight and did not move.",
          '"Is it a monster?" {h.he} thought, and {h.he} began to shake.',
        ],
        [
          '"{^g}! {^g}!" called {h}. {^h.his} {g} came in with a small lamp.',
          "{h} ran to {h.his} {g} as fast as {h.he} could.",
        ],
        [
          '"There is a monster in my room," said {h}. "Let\'s go and look together," said {h.his} {g}.',
          '"I am scared," {h} whispered. {^h.his} {g} took {h.his} hand. "I am with you," {g.he} said.',
        ],
      ],
      [
        [
          "They looked {spot1} and {spot2}. There was no monster. It was {maker}!",
          "They walked to the window and looked out. The sound was {maker}.",
        ],
        ["{h} laughed. It was not scary at all.", '"Oh! That is all?" said {h}, and they both laughed.'],
        [
          "{^h.his} {g} sang a soft song, and {h} fell asleep.",
          "{h} closed {h.his} eyes and slept until morning.",
          "After that night, {h} was not afraid of the dark anymore.",
        ],
      ],
    ],
  },
  {
    name: "honesty",
    paragraphs: [
      [
        open,
        [
          "One {weather} day, {h} was playing with {h.his} {toy} in the house.",
          "One day, {h} was running around the living room, even though {h.his} {g} had said not to.",
        ],
        [
          "Crash! The {breakable} fell down and broke.",
          "Suddenly, {h.he} bumped into the table. The {breakable} fell and broke into pieces.",
        ],
      ],
      [
        [
          "{h} was scared. {^h.he} hid the pieces {spot1}.",
          '"Oh no! What will {^g} say?" thought {h}. {^h.he} quickly put the pieces {spot1}.',
        ],
        [
          '"Have you seen my {breakable}?" asked {h.his} {g}. "No," said {h}, and {h.he} looked at the floor.',
          '"Where is the {breakable}?" asked {h.his} {g}. "Maybe the cat took it," said {h}.',
        ],
        [
          "But {h} felt bad. {^h.his} tummy hurt, and {h.he} could not [play|eat|smile].",
          "All day long, {h} thought about the lie. It felt like a heavy stone.",
        ],
        [
          'At last, {h} said, "I broke the {breakable}. I am sorry that I lied."',
          'That evening, {h} went to {h.his} {g} and told {g.him} the truth. "I am so sorry," {h.he} said.',
        ],
      ],
      [
        [
          '{^h.his} {g} hugged {h.him}. "Thank you for telling the truth," {g.he} said.',
          '"I am not angry," said {h.his} {g}. "It was brave to tell me."',
        ],
        ["Together they glued the pieces back together.", "They swept up the pieces and put them in a bag."],
        [
          "{h} felt light and {happy} again. Telling the truth was better than hiding it.",
          "From then on, {h} always told the truth.",
          "{h} promised to be careful, and {h.he} kept {h.his} promise.",
        ],
      ],
    ],
  },
  {
    name: "planting",
    paragraphs: [
      [
        open,
        about,
        [
          "One {weather} day in spring, {h.his} {g} gave {h.him} a tiny seed.",
          "One {weather} day, {h} found a tiny seed {place.at}.",
        ],
        [
          '"What is it?" asked {h}. "Plant it and you will see," said {h.his} {g}.',
          '"If you take care of it, it will grow," said {h.his} {g}.',
        ],
      ],
      [
        [
          "{h} dug a small hole, put the seed in, and covered it with soft dirt.",
          "{h} put the seed in a pot of dirt next to the window.",
        ],
        [
          "Every day, {h.he} gave it water. But nothing happened.",
          "{^h.he} watered it every morning and waited. One day passed, and then another. Nothing came up.",
        ],
        [
          '"Maybe it is sleeping," said {h}. "Be patient," said {h.his} {g}.',
          '"Why does it not grow?" asked {h}. "Good things take time," said {h.his} {g}.',
          "{h} even sang a song to the seed.",
        ],
      ],
      [
        [
          "Then one morning, {h} saw a tiny green leaf!",
          "One {weather} morning, something small and green peeked out of the dirt.",
        ],
        ["It grew and grew until it was {a plant}.", "Week after week it grew taller. It was {a plant}!"],
        [
          "{h} was {happy} and showed it to {h.his} friend {f}.",
          '"I grew it all by myself!" {h} told {h.his} friend {f}.',
          '{^h.his} {g} smiled and said, "You took good care of it."',
        ],
        [
          "{h} learned that waiting can be hard, but it is worth it.",
          "And in the fall, {h} saved a new seed for the next year.",
        ],
      ],
    ],
  },
];
